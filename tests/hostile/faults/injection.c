/* Fails one system call that writes, or kills the process at it. Loaded by LD_PRELOAD; see injection.py.

   Calls are counted that change files under one folder. The file that FAULT_CONTROL names is mapped by every process,
   so the count is one for all of them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    int64_t armed;  /* calls are counted only while it is not 0 */
    int64_t count;  /* calls so far */
    int64_t target; /* the call that fails, from 1; 0 for none */
    int64_t error;  /* errno of the failure; 0 kills the process by SIGKILL instead */
    char folder[PATH_MAX];
    char call[PATH_MAX]; /* the call that failed, and its file */
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULT_CONTROL");
    int file = name ? open(name, O_RDWR) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) control = mapped;
}

static int in_folder(const char *path) {
    size_t length = strlen(control->folder);
    return strncmp(path, control->folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int absolute(int folder, const char *path, char *out) {
    char link[64];
    if (path && path[0] == '/') return snprintf(out, PATH_MAX, "%s", path) > 0;
    if (path && folder == AT_FDCWD) {
        if (!getcwd(out, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, out, PATH_MAX - 1);
        if (length < 0) return 0;
        out[length] = 0;
    }
    if (path) {
        size_t used = strlen(out);
        snprintf(out + used, PATH_MAX - used, "/%s", path);
    }
    return 1;
}

/* Count a call; return 1 if it is to fail. */
static int fails(const char *call, int folder, const char *path) {
    char whole[PATH_MAX];
    int before = errno;
    if (!control || !control->armed || !absolute(folder, path, whole) || !in_folder(whole)) {
        errno = before;
        return 0;
    }
    errno = before;
    if (__atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST) != control->target) return 0;
    snprintf(control->call, PATH_MAX, "%s %.3000s", call, whole);
    if (!control->error) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = (int)control->error;
    return 1;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define WRAP(result, name, parameters, folder, path, ...)                                                              \
    result name parameters {                                                                                           \
        REAL(name);                                                                                                    \
        return fails(#name, folder, path) ? -1 : real(__VA_ARGS__);                                                    \
    }

WRAP(int, fsync, (int file), file, NULL, file)
WRAP(int, fdatasync, (int file), file, NULL, file)
WRAP(int, ftruncate, (int file, off_t size), file, NULL, file, size)
WRAP(int, ftruncate64, (int file, off64_t size), file, NULL, file, size)
WRAP(int, rename, (const char *from, const char *to), AT_FDCWD, to, from, to)
WRAP(int, renameat, (int a, const char *from, int b, const char *to), b, to, a, from, b, to)
WRAP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), b, to, a, from, b, to, flags)
WRAP(int, link, (const char *from, const char *to), AT_FDCWD, to, from, to)
WRAP(int, symlink, (const char *from, const char *to), AT_FDCWD, to, from, to)
WRAP(int, mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
WRAP(int, mkdirat, (int folder, const char *path, mode_t mode), folder, path, folder, path, mode)
WRAP(int, unlink, (const char *path), AT_FDCWD, path, path)
WRAP(int, unlinkat, (int folder, const char *path, int flags), folder, path, folder, path, flags)
WRAP(int, rmdir, (const char *path), AT_FDCWD, path, path)

/* Half of what fails to be written is written, as on a disk that fills up. */
static int half(const char *call, int file, size_t count, size_t *allowed) {
    *allowed = count;
    if (!fails(call, file, NULL)) return 0;
    *allowed = count / 2;
    return 1;
}

#define WRITES(name, parameters, ...)                                                                                  \
    ssize_t name parameters {                                                                                          \
        REAL(name);                                                                                                    \
        int error = 0;                                                                                                 \
        if (half(#name, file, count, &count)) error = errno;                                                           \
        if (!error || count) {                                                                                         \
            ssize_t done = real(__VA_ARGS__);                                                                          \
            if (!error) return done;                                                                                   \
        }                                                                                                              \
        errno = error;                                                                                                 \
        return -1;                                                                                                     \
    }

WRITES(write, (int file, const void *data, size_t count), file, data, count)
WRITES(pwrite, (int file, const void *data, size_t count, off_t at), file, data, count, at)
WRITES(pwrite64, (int file, const void *data, size_t count, off64_t at), file, data, count, at)

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    return fails("writev", file, NULL) ? -1 : real(file, parts, count);
}

#define OPENS(name, parameters, folder, path, flags, ...)                                                              \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        if (flags & (O_CREAT | O_TRUNC) && fails(#name, folder, path)) return -1;                                      \
        return real(__VA_ARGS__, mode);                                                                                \
    }

OPENS(open, (const char *path, int flags, ...), AT_FDCWD, path, flags, path, flags)
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD, path, flags, path, flags)
OPENS(openat, (int folder, const char *path, int flags, ...), folder, path, flags, folder, path, flags)
OPENS(openat64, (int folder, const char *path, int flags, ...), folder, path, flags, folder, path, flags)
