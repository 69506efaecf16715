from __future__ import annotations

from meshwright.costmodel.formulas import collectives, experts, matmul, memory
from meshwright.planner.explain.formula_text import formula_text


def test_an_equation_may_go_over_lines() -> None:
    text = formula_text(collectives.wire_bytes)
    assert text.name == "collectives.wire_bytes"
    assert text.equation == "all-gather, reduce-scatter, all-to-all S (g-1)/g; all-reduce 2 S (g-1)/g; send/recv S."
    assert text.source.startswith("Thakur et al., Int. J. High Perform.")
    assert text.source.endswith("the bus bandwidth of nccl-tests.")


def test_an_equation_may_stand_by_itself() -> None:
    assert formula_text(experts.expected_imbalance).equation.startswith("1 + deviation z(G) / sqrt(E / G)")
    assert formula_text(memory.host_update_s).equation == "N (g + 2) / PCIe + N G / R"


def test_an_equation_may_be_the_summary() -> None:
    assert (
        formula_text(memory.parameter_bytes).equation == "Bytes of BF16 parameters: 2 N, and 2 N / shards under ZeRO-3."
    )


def test_examples_are_no_part_of_it() -> None:
    text = formula_text(matmul.gemm_flops)
    assert ">>>" not in text.equation + text.source + text.summary
    assert text.source == "definition; a multiplication and an addition each."
