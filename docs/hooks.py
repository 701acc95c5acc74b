"""MkDocs hooks that publish pages from outside docs/ and rewrite the links to and from them.

Links in the sources are relative to the repository, so that they also work where the repository is browsed.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/results/**/*.md",
    "benchmarks/results/**/*.png",
)
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the published files from outside docs/ to the site, under their paths in the repository."""
    for pattern in PUBLISHED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            added = File.generated(config, name, abs_src_path=str(path))
            if name.startswith("benchmarks/"):
                added.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the repository's relative links as links within the site."""
    source = page.file.src_uri
    here = source if (ROOT / source).exists() else f"docs/{source}"

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[2]))
        found = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(source) or ".")
        return f"{link[1]}{found}{link[3]}"

    return LINK.sub(rewrite, markdown)
