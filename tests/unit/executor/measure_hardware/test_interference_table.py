"""The table of computation beside communication, by hand-made samples."""

from __future__ import annotations

from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Work,
)
from meshwright.executor.measure_hardware.interference_table import ALONE, interference_table
from meshwright.hardware_profiles.measurements import Implementation, InterferenceSample

PRODUCT = GemmWork(m=1024, n=512, k=256)
COPY = MemoryWork(kernel=MemoryKernel.COPY, read_bytes=2.0**20, write_bytes=2.0**20)
PAIR = Group(size=2, ranks_per_node=2)


def _sample(
    compute: Work,
    collective: Collective,
    seconds: tuple[float, float, float, float],
    *,
    num_ctas: int = 0,
    implementation: Implementation = Implementation.NCCL,
) -> InterferenceSample:
    alone, beside, communication_alone, communication_beside = seconds
    return InterferenceSample(
        compute=compute,
        communication=CollectiveWork(collective=collective, num_bytes=2.0**28, group=PAIR),
        implementation=implementation,
        num_ctas=num_ctas,
        compute_alone_s=alone,
        compute_beside_s=beside,
        communication_alone_s=communication_alone,
        communication_beside_s=communication_beside,
    )


def test_rows_are_medians_over_collectives() -> None:
    gather, scatter, exchange = Collective.ALL_GATHER, Collective.REDUCE_SCATTER, Collective.ALL_TO_ALL
    columns, rows = interference_table(
        (
            _sample(PRODUCT, gather, (2.0, 3.0, 1.0, 2.5), num_ctas=4, implementation=Implementation.COPY_ENGINE),
            _sample(PRODUCT, gather, (2.0, 2.5, 3.0, 3.3), num_ctas=8),
            _sample(PRODUCT, gather, (2.0, 2.2, 1.0, 1.5)),
            _sample(PRODUCT, scatter, (2.0, 2.4, 1.0, 1.6)),
            _sample(PRODUCT, exchange, (2.0, 3.0, 1.0, 9.0)),
            _sample(COPY, scatter, (1.0, 1.1, 4.0, 6.0)),
        )
    )
    assert columns == (*ALONE, "product 1024x512x256", "memory-bound, 2 MiB")
    assert rows == (
        ("its own choice", "1.00", "1.20, 1.60", "1.10, 1.50"),
        ("8", "3.00", "1.25, 1.10", ""),
        ("copy engines", "", "1.50, 2.50", ""),
    )


def test_thread_blocks_whose_own_choice_was_not_measured_have_no_ratio() -> None:
    _, rows = interference_table((_sample(PRODUCT, Collective.ALL_GATHER, (2.0, 2.5, 3.0, 3.3), num_ctas=8),))
    assert rows == (("8", "", "1.25, 1.10"),)
