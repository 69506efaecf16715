"""A CUDA GPU, timed by its own events on a stream of its own."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise

import torch

from meshwright.executor.measure_hardware.clock_probe import ClockMarks, Read, clock_reader
from meshwright.executor.measure_hardware.device import Clocked, Device, DeviceLostError, Work
from meshwright.executor.measure_hardware.operators.values import normal
from meshwright.executor.measure_hardware.streams import stream_beside

HEATING_SIZE = 8192
BUSY_PRODUCTS = 6
PRODUCTS_AT_ONCE = 100
MILLISECOND = 1e-3


class CudaDevice(Device):
    """GPU `index`. Work is captured into CUDA graphs, so that times are the GPU's and not the host's."""

    captures = True

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(self.torch_device)
        self.l2_bytes = float(properties.L2_cache_size)
        self.num_sms = int(properties.multi_processor_count)
        with torch.cuda.device(self.torch_device):
            self.stream = torch.cuda.Stream(self.torch_device)
            self.beside = stream_beside(self.stream)
        self._heaters: tuple[torch.Tensor, ...] = ()
        self._tried_reader = False
        self._reader: Read | None = None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Its stream; autograd runs backwards on the stream of the forward, so both are made and captured there."""
        with torch.cuda.device(self.torch_device), torch.cuda.stream(self.stream):
            yield

    def capture(self, work: Work) -> Work:
        """A CUDA graph of the work. Its outputs live in the graph's own memory.

        `torch.cuda.graph` would return all cached memory first, which takes longer than most samples do.
        """
        graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        self.stream.synchronize()
        with self.scope():
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
                graph.capture_end()
            except BaseException:
                self._end_failed(graph, pool)
                raise
        return graph.replay

    def _end_failed(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        """Leave the stream and the allocator as they were; each step may find that it is done already."""
        for step in (graph.capture_end, lambda: torch._C._cuda_endAllocateToPool(self.torch_device.index, pool)):
            with suppress(RuntimeError):
                step()

    def intervals(self, works: Sequence[Work]) -> tuple[float, ...]:
        """Between events of the stream, waited for in the end alone."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(works) + 1)]
        events[0].record(self.stream)
        for work, event in zip(works, events[1:], strict=True):
            work()
            event.record(self.stream)
        events[-1].synchronize()
        return tuple(before.elapsed_time(after) * MILLISECOND for before, after in pairwise(events))

    def clocked_intervals(self, works: Sequence[Work]) -> Clocked:
        """The clocks are read by a kernel between the works; it is in the time of none of them."""
        with self.scope():
            if not self._tried_reader:
                self._tried_reader = True
                self._reader = clock_reader(self.num_sms, self.torch_device)
            if self._reader is None:
                return Clocked(self.intervals(works), ())
            marks = ClockMarks(len(works) + 1, self.num_sms, self.torch_device, self._reader)
            steps: list[Work] = [marks.mark(0)]
            for place, work in enumerate(works, start=1):
                steps += [work, marks.mark(place)]
            seconds = self.intervals(steps)[1::2]
            return Clocked(seconds, marks.clocks_hz())

    def reference(self) -> None:
        """A product of 8192^3."""
        self._multiply(1)

    def heat(self, seconds: float) -> None:
        """Products of 8192^3 on random values."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._multiply(PRODUCTS_AT_ONCE)
            self.stream.synchronize()

    def keep_busy(self) -> None:
        """About 10 ms of an H100."""
        self._multiply(BUSY_PRODUCTS)

    def tidy(self) -> None:
        """Graphs and inputs of earlier samples are given back once they fill half of the memory."""
        free, total = torch.cuda.mem_get_info(self.torch_device)
        if free < total / 2:
            gc.collect()
            torch.cuda.empty_cache()

    def check_alive(self) -> None:
        """An illegal access, say, ends all work of the process."""
        try:
            torch.cuda.synchronize(self.torch_device)
        except RuntimeError as problem:
            raise DeviceLostError(f"the GPU stopped working for this process: {problem}") from problem

    def release(self) -> None:
        """Cached blocks, and the heating operands."""
        self._heaters = ()
        torch.cuda.synchronize(self.torch_device)
        torch.cuda.empty_cache()

    def _multiply(self, count: int) -> None:
        with self.scope():
            if not self._heaters:
                shape = (HEATING_SIZE, HEATING_SIZE)
                self._heaters = tuple(normal(shape, self.torch_device) for _ in range(3))
            left, right, out = self._heaters
            for _ in range(count):
                torch.mm(left, right, out=out)
