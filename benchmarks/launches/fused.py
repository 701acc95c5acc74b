"""Launches of what is compiled, and of what is captured in graphs, as they are counted on a CPU.

Of compiled blocks, inductor's generated code is counted as it runs: every loop nest of a C++ kernel is a launch, since
Triton makes a kernel at least of each. What it calls beside, such as products of matrices, the mode sees. A graph is
one launch, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

from benchmarks.launches import LaunchCounter

T = TypeVar("T")


class CountedGraph:
    """Stands for a graph: computes when it is captured, and is counted when it is replayed."""

    replays = 0
    """Of all graphs."""
    kernels = 0
    """That all graphs hold."""

    def __init__(self, beside: object) -> None:
        pass

    def capture(self, work: Callable[[], T]) -> T:
        """Count what a graph holds."""
        with LaunchCounter() as counter:
            returned = work()
        CountedGraph.kernels += counter.total
        return returned

    def replay(self) -> None:
        """Count a launch."""
        CountedGraph.replays += 1


class CompiledKernels:
    """Launches of generated kernels."""

    def __init__(self) -> None:
        self.launches = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count kernels that are generated within this context, whenever they run. What is cached is generated anew."""
        import torch._inductor.config
        from torch._inductor.async_compile import AsyncCompile

        compile_kernel = AsyncCompile.cpp_pybinding

        def compiled(given: AsyncCompile, types: Any, source: str) -> Callable[..., Any]:
            kernel, nests = compile_kernel(given, types, source), loop_nests(source)

            def run(*tensors: Any) -> Any:
                self.launches += nests
                return (kernel.result() if hasattr(kernel, "result") else kernel)(*tensors)

            return run

        with (
            mock.patch.object(AsyncCompile, "cpp_pybinding", compiled),
            torch._inductor.config.patch({"force_disable_caches": True, "cpp.threads": 1}),
        ):
            yield


def loop_nests(source: str) -> int:
    """Return the outermost loops of a C++ kernel."""
    nests, depth, inside = 0, 0, None
    for place, character in enumerate(source):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            inside = None if inside is not None and depth <= inside else inside
        elif inside is None and source.startswith("for(", place):
            nests, inside = nests + 1, depth
    return nests
