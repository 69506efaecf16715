"""The law of dense products from samples: the figures of least mean error in the logarithm, far misses counted less."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from meshwright.costmodel.formulas.matmul import TiledMachine
from meshwright.costmodel.formulas.tiled_products import tiled_products_s
from meshwright.costmodel.hardware import GpuSpec
from meshwright.costmodel.program.operators import GemmWork, Precision
from meshwright.costmodel.tables import GemmLaw
from meshwright.hardware_profiles.build.descent import Bounds, Figures, descended
from meshwright.hardware_profiles.measurements import Sample

LEAST_SAMPLES = 60
"""Five for each figure of the law; with fewer, efficiencies of the roofline tell more."""
FAR = 0.4
"""An error in the logarithm beyond which it does not matter how large it is."""
MOST_SAMPLES = 400
"""More make the fit slower and hardly better."""

FIGURES = {
    "rate_fraction": Bounds(0.75, 0.3, 1.0),
    "depth_s": Bounds(8e-10, 1e-11, 1e-8),
    "side_s": Bounds(1.2e-11, 1e-13, 1e-9),
    "load_sharpness": Bounds(5.0, 1.0, 20.0),
    "tile_depth": Bounds(200.0, 1.0, 2048.0),
    "value_s": Bounds(3e-11, 1e-13, 1e-9),
    "later_share": Bounds(0.6, 0.01, 1.0),
    "bandwidth_fraction": Bounds(0.95, 0.3, 1.0),
    "start_s": Bounds(2.7e-6, 1e-7, 1e-4),
    "sharpness": Bounds(8.0, 1.0, 20.0),
    "join_s": Bounds(3e-6, 1e-8, 1e-4),
    "join_share": Bounds(0.5, 0.01, 10.0),
}


def product_law(samples: Iterable[Sample], gpu: GpuSpec) -> GemmLaw | None:
    """The law of products in BF16, of all directions alike; None where too few were measured.

    Products that are added into FP32 have traffic of their own and stay out. Of many samples every so many-th counts.
    """
    times_s = {
        (work.m, work.n, work.k, work.direction): sample.time_s
        for sample in samples
        if isinstance(work := sample.work, GemmWork)
        and work.precision is Precision.BF16
        and not work.accumulates_fp32
        and sample.gpu == 0
    }
    if len(times_s) < LEAST_SAMPLES:
        return None
    chosen = sorted(times_s)[:: -(-len(times_s) // MOST_SAMPLES)]
    shapes = np.array([shape for *shape, _ in chosen], dtype=np.float64)
    measured = np.log([times_s[key] for key in chosen])
    machine = TiledMachine(gpu.num_sms, gpu.peak_flops_per_s(Precision.BF16), gpu.copy_bytes_per_s)

    def error(figures: Figures) -> float:
        misses = np.abs(np.log(tiled_products_s(shapes, GemmLaw(**figures), machine)) - measured)
        return float(np.minimum(misses, FAR).mean())

    return GemmLaw(**descended(FIGURES, error))
