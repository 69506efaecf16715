"""Every reference against float64 in every shape class, by the checks that CUDA kernels are put to."""

from __future__ import annotations

import pytest
import torch

from meshwright.kernels.checking.cases import CASES, Case
from meshwright.kernels.checking.check_all import CHECKS
from meshwright.kernels.checking.check_index import check_index
from meshwright.kernels.index.contract import Parts, RowMap

CPU = torch.device("cpu")
MOST_SLOTS = 3000
PAIRS = [
    (kernel, case) for kernel in CHECKS for case in CASES if kernel == "route" or case.tokens * case.top_k <= MOST_SLOTS
]


@pytest.mark.parametrize(("kernel", "case"), PAIRS, ids=lambda part: getattr(part, "name", part))
def test_references_agree_with_float64(kernel: str, case: Case) -> None:
    findings = CHECKS[kernel](case, CPU, torch.Generator().manual_seed(0))
    assert findings
    assert [finding for finding in findings if not finding.is_right] == []


def test_a_wrong_map_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsorted(
        experts: torch.Tensor,
        num_experts: int,
        *,
        first_expert: int,  # noqa: ARG001
        tile: int,
        parts: Parts | None,  # noqa: ARG001
    ) -> RowMap:
        slots = torch.arange(experts.numel(), dtype=torch.int32)
        counts = torch.zeros(num_experts, dtype=torch.int32)
        return RowMap(slots_P=slots, places_TK=slots.view_as(experts), counts_E=counts, offsets_E=counts, tile=tile)

    monkeypatch.setattr("meshwright.kernels.checking.check_index.index", unsorted)
    case = next(case for case in CASES if case.name == "no padding")
    wrong = {finding.what for finding in check_index(case, CPU, torch.Generator()) if not finding.is_right}
    assert wrong == {"index: slots", "index: places", "index: counts", "index: offsets"}
