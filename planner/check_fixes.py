"""Whether pinned choices can be met by the model, the cluster and the workload: one line that names what is allowed.

Rules are checked one by one, each with its own message. What no single rule forbids but no legal plan combines is found
by walking the outer points of the space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from math import gcd, prod

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import DenseFfnSpec, MoeFfnSpec
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.runtime_limits import check_runtime_runs
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.check_batch import check_batch, has_legal_mesh
from meshwright.planner.fixes import OPTION, FfnChoice, Fixes
from meshwright.planner.space import Problem, divisors

MAX_LISTED = 12
V_SHAPED = (ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V)


def check_fixes(problem: Problem, runtime: RuntimeSpec) -> None:
    """Raises `StrategyError` where the runtime, the pinned choices, or batch and sequence, leave nothing to search."""
    check_runtime_runs(runtime, problem.model, problem.workload)
    _check_positions(problem)
    _check_heads(problem)
    _check_ffn_widths(problem)
    _check_experts(problem)
    _check_stages(problem)
    _check_schedule(problem)
    _check_gpus(problem)
    _check_expert_gpus(problem)
    _check_sequence(problem)
    check_batch(problem)
    _check_something_is_left(problem)


def _check_positions(problem: Problem) -> None:
    learned, seq_len = problem.model.learned_positions, problem.workload.seq_len
    if learned and seq_len > learned:
        text = f"{seq_len} tokens, but {problem.model.name} has {learned} learned positions"
        raise StrategyError("--seq-len", "", text)


def _check_heads(problem: Problem) -> None:
    """The group of tp x sp splits heads evenly; key-value heads are split or copied evenly."""
    fixes, pinned = problem.fixes, _product(problem.fixes, "tp", "sp")
    attentions = [layer.attention for layer in problem.model.layer_types]
    heads = gcd(*(attention.num_heads for attention in attentions))
    kv_heads = sorted({attention.num_kv_heads for attention in attentions})
    largest = max(problem.cluster.gpus_per_node, pinned)
    allowed = [
        group
        for group in divisors(heads)
        if group <= largest and all(count % group == 0 or group % count == 0 for count in kv_heads)
    ]
    reached = [group for group in allowed if group == pinned or (group % pinned == 0 and not (fixes.tp and fixes.sp))]
    if not reached:
        words = f"cannot split {heads} heads with {_listed(kv_heads)} key-value heads evenly"
        raise _refusal(fixes, ("tp", "sp"), f"{words}; tp x sp can be {_listed(allowed)}")


def _check_ffn_widths(problem: Problem) -> None:
    """Dense FFNs and shared experts are split over tp."""
    ffns = [layer.ffn for layer in problem.model.layer_types]
    widths = [ffn.intermediate if isinstance(ffn, DenseFfnSpec) else ffn.shared_intermediate for ffn in ffns]
    width = gcd(*widths)
    if problem.fixes.tp and width % problem.fixes.tp:
        raise _refusal(problem.fixes, ("tp",), f"does not divide the FFN's width {width}; {_allowed('tp', width)}")


def _check_experts(problem: Problem) -> None:
    fixes = problem.fixes
    experts = [layer.ffn for layer in problem.model.layer_types if isinstance(layer.ffn, MoeFfnSpec)]
    if not experts:
        _check_without_experts(problem)
        return
    count, width = gcd(*(ffn.num_experts for ffn in experts)), gcd(*(ffn.intermediate for ffn in experts))
    node = problem.cluster.gpus_per_node
    if fixes.ep and count % fixes.ep:
        raise _refusal(fixes, ("ep",), f"does not divide {count} experts; {_allowed('ep', count)}")
    if fixes.etp and width % fixes.etp:
        raise _refusal(
            fixes, ("etp",), f"does not divide an expert's width {width}; {_allowed('etp', gcd(width, node))}"
        )
    if fixes.etp and node % fixes.etp:
        raise _refusal(fixes, ("etp",), f"slices experts inside a node of {node} GPUs; {_allowed('etp', node)}")


def _check_without_experts(problem: Problem) -> None:
    fixes, name = problem.fixes, problem.model.name
    for axis in ("ep", "etp"):
        if _product(fixes, axis) > 1:
            raise _refusal(fixes, (axis,), f"{name} is dense, it has no experts; {axis} can be 1")
    if fixes.ffn is FfnChoice.EXPERT:
        raise _refusal(fixes, ("ffn",), f"{name} is dense, it has no experts; ffn can be tp or replicated")
    if fixes.dispatch:
        raise _refusal(fixes, ("dispatch",), f"{name} is dense, it has no experts to dispatch to")


def _check_stages(problem: Problem) -> None:
    fixes, layers = problem.fixes, problem.model.num_layers
    pp, vp = fixes.pp or 1, fixes.vp or 1
    if pp > layers:
        raise _refusal(
            fixes, ("pp",), f"needs a layer a stage, {problem.model.name} has {layers}; pp can be 1 to {layers}"
        )
    if fixes.pp == 1 and vp > 1:
        raise _refusal(fixes, ("pp", "vp"), "one stage is no pipeline; with pp=1, vp can be 1")
    if pp * vp > layers:
        problem_text = f"{pp * vp} virtual stages need a layer each, {problem.model.name} has {layers}"
        raise _refusal(fixes, ("pp", "vp"), f"{problem_text}; vp can be 1 to {layers // pp}")


def _check_schedule(problem: Problem) -> None:
    fixes, layers = problem.fixes, problem.model.num_layers
    if fixes.schedule in V_SHAPED:
        if fixes.vp not in (None, 2):
            raise _refusal(fixes, ("schedule", "vp"), f"{fixes.schedule} has two virtual stages a device: vp=2")
        if 2 * (fixes.pp or 1) > layers:
            text = f"{2 * (fixes.pp or 1)} virtual stages need a layer each, {problem.model.name} has {layers}"
            raise _refusal(fixes, ("schedule", "pp"), text)
    elif fixes.schedule is ScheduleKind.INTERLEAVED:
        if fixes.vp == 1:
            raise _refusal(fixes, ("schedule", "vp"), "interleaved has several virtual stages a device: vp >= 2")
        if fixes.pp == 1:
            raise _refusal(fixes, ("schedule", "pp"), "one stage is no pipeline; with pp=1, schedule can be 1f1b")
    elif fixes.schedule and (fixes.vp or 1) > 1:
        raise _refusal(fixes, ("schedule", "vp"), f"{fixes.schedule} has one virtual stage a device: vp=1")


def _check_gpus(problem: Problem) -> None:
    """The product of the pinned degrees divides the GPUs, and is all of them if every degree is pinned."""
    fixes, gpus = problem.fixes, problem.cluster.num_gpus
    axes = ("tp", "sp", "cp", "pp", "dp")
    pinned = [axis for axis in axes if getattr(fixes, axis)]
    product = _product(fixes, *axes)
    if gpus % product:
        others = product // getattr(fixes, pinned[-1])
        way_out = f"; {_allowed(pinned[-1], gpus // others)}" if gpus % others == 0 else ""
        raise _refusal(fixes, axes, f"product {product} does not divide {gpus} GPUs{way_out}")
    if pinned == list(axes) and product != gpus:
        dp = gpus // _product(fixes, *axes[:-1])
        raise _refusal(fixes, axes, f"product {product} is not {gpus} GPUs; dp can be {dp}")


def _check_expert_gpus(problem: Problem) -> None:
    """The experts' view divides the GPUs of a stage."""
    fixes = problem.fixes
    stage_gpus, experts = problem.cluster.num_gpus // (fixes.pp or 1), _product(fixes, "ep", "etp")
    if stage_gpus % experts:
        whose = "a pipeline stage" if fixes.pp else "the cluster"
        text = f"ep x etp = {experts} does not divide the {stage_gpus} GPUs of {whose}"
        raise _refusal(fixes, ("ep", "etp", "pp"), f"{text}; {_allowed('ep x etp', stage_gpus)}")


def _check_sequence(problem: Problem) -> None:
    fixes, seq_len = problem.fixes, problem.workload.seq_len
    group, cp = _product(fixes, "tp", "sp"), fixes.cp or 1
    shares = 2 * cp * group if cp > 1 else group
    if seq_len % shares:
        factors = "2 x cp x tp x sp" if cp > 1 else "tp x sp"
        raise _refusal(fixes, ("tp", "sp", "cp"), f"--seq-len {seq_len} is not a multiple of {factors} = {shares}")


def _check_something_is_left(problem: Problem) -> None:
    if has_legal_mesh(problem):
        return
    names = tuple(name for name in Fixes.__struct_fields__ if getattr(problem.fixes, name) is not None)
    gpus, batch, seq_len = problem.cluster.num_gpus, problem.workload.global_batch, problem.workload.seq_len
    run = f"{gpus} GPUs with a batch of {batch} sequences of {seq_len} tokens"
    if not names:
        raise StrategyError("--gpus", "", f"no legal combination of degrees for {problem.model.name} on {run}")
    culprits = " or ".join(_culprits(problem)) or "more than one of them"
    raise _refusal(problem.fixes, names, f"no legal plan has all of these on {run}; free {culprits}")


def _culprits(problem: Problem) -> Iterator[str]:
    """Each pinned choice without which something would be left."""
    for name in Fixes.__struct_fields__:
        if getattr(problem.fixes, name) is not None:
            freed = msgspec.structs.replace(problem.fixes, **{name: None})
            if has_legal_mesh(msgspec.structs.replace(problem, fixes=freed)):
                yield name


def _product(fixes: Fixes, *axes: str) -> int:
    """Product of the pinned degrees; a free one counts 1."""
    return prod(getattr(fixes, axis) or 1 for axis in axes)


def _refusal(fixes: Fixes, names: tuple[str, ...], problem: str) -> StrategyError:
    """The error about some choices, which it repeats as they were typed."""
    pinned = " ".join(f"{name}={getattr(fixes, name)}" for name in names if getattr(fixes, name) is not None)
    return StrategyError(OPTION, pinned, problem)


def _allowed(name: str, number: int) -> str:
    return f"{name} can be {_listed(divisors(number))}"


def _listed(numbers: Iterable[int]) -> str:
    """Numbers with commas, the end left out where there are many."""
    shown = [str(number) for number in islice(numbers, MAX_LISTED + 1)]
    return ", ".join(shown if len(shown) <= MAX_LISTED else [*shown[:MAX_LISTED], "..."])
