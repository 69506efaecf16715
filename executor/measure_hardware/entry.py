"""What is to be measured, as values: one entry becomes one sample. No torch here."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from meshwright.costmodel.program.operators import AttentionWork, CollectiveWork, MemoryWork, Work
from meshwright.costmodel.value import Value
from meshwright.executor.measure_hardware.memory_case import MemoryCase
from meshwright.hardware_profiles.measurements import Implementation, Purpose


class Extent(StrEnum):
    """How much is measured. TINY: every kind of entry once, at sizes that a CPU does in no time (for tests)."""

    TINY = "tiny"
    QUICK = "quick"
    FULL = "full"


class Direction(StrEnum):
    """Which way a copy between GPU and host goes; `CopyWork` does not tell."""

    TO_HOST = "to_host"
    TO_GPU = "to_gpu"


class Entry(Value, frozen=True, kw_only=True):
    """One sample to take. `case` says which operator a `MemoryWork` is; `gpu` which GPU, None where all take part."""

    work: Work
    implementation: Implementation
    purpose: Purpose = Purpose.FIT
    rows_per_group: tuple[int, ...] = ()
    peer_shares: tuple[float, ...] = ()
    case: MemoryCase | None = None
    copy_direction: Direction | None = None
    gpu: int | None = None

    @property
    def key(self) -> str:
        """A name that only an equal entry has."""
        return msgspec.json.encode(self, order="deterministic").decode()

    @property
    def family(self) -> str:
        """Entries that run the same code: what is checked once before any of them is timed."""
        work = self.work
        words = [type(work).__name__, self.implementation.value]
        fields = ("direction", "precision", "accumulates_fp32", "backward", "head_dim", "value_head_dim", "collective")
        words += [f"{field}={getattr(work, field)}" for field in fields if hasattr(work, field)]
        if isinstance(work, AttentionWork) and work.num_kv_heads < work.num_heads:
            words.append("shared heads")
        words += ["skewed"] * bool(self.rows_per_group or self.peer_shares)
        if self.case:
            words += [self.case.operator.value, *(["of experts"] * (self.case.top_k > 1))]
        return " ".join(words)


class InterferenceEntry(Value, frozen=True, kw_only=True):
    """Computation beside communication. `case` is the computation's operator where it is a `MemoryWork`."""

    compute: Entry
    communication: CollectiveWork
    implementation: Implementation
    num_ctas: int

    @property
    def key(self) -> str:
        """A name that only an equal entry has."""
        return msgspec.json.encode(self, order="deterministic").decode()


class Survey(Value, frozen=True, kw_only=True):
    """All that one run measures: on one GPU, on every GPU alone, between GPUs by NCCL and by copy engines."""

    extent: Extent
    local: tuple[Entry, ...]
    health: tuple[Entry, ...] = ()
    links: tuple[Entry, ...] = ()
    peer_copies: tuple[Entry, ...] = ()
    link_interference: tuple[InterferenceEntry, ...] = ()
    copy_interference: tuple[InterferenceEntry, ...] = ()

    @property
    def num_samples(self) -> int:
        """Entries of every kind."""
        return sum(len(getattr(self, field)) for field in self.__struct_fields__[1:])


def memory_entry(case: MemoryCase, implementation: Implementation, purpose: Purpose = Purpose.FIT) -> Entry:
    """The entry of a memory-bound operator, with the bytes that layer programs count for it."""
    work: MemoryWork = case.work(eager=implementation is Implementation.EAGER)
    return Entry(work=work, implementation=implementation, purpose=purpose, case=case)
