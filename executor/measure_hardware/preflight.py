"""What must hold before anything is measured; each refusal is one line."""

from __future__ import annotations

from importlib.util import find_spec

from meshwright.costmodel.errors import InputError
from meshwright.executor.measure_hardware.request import ProfileRequest
from meshwright.hardware_profiles import load_profile
from meshwright.planner.serialise import check_writable

SHIPPED = "shipped profiles need no GPU: `meshwright clusters` lists them"


def check_torch() -> None:
    """PyTorch is there."""
    if find_spec("torch") is None:
        raise InputError("profile", "", f"needs PyTorch: pip install 'meshwright[train]'; {SHIPPED}")


def check_options(request: ProfileRequest) -> None:
    """What needs no PyTorch: files can be written, the base is a profile."""
    if request.base is not None:
        load_profile(request.base)
    for path in (request.output, request.measurements):
        check_writable(path)
    if request.output.resolve() == request.measurements.resolve():
        raise InputError("--measurements", "", f"{request.measurements} is the profile too; expected another file")


def check_request(request: ProfileRequest) -> None:
    """Options hold, GPUs are there and free."""
    check_options(request)
    if request.on_gpus:
        check_gpus(shared=request.shared)


def check_gpus(*, shared: bool) -> None:
    """PyTorch sees CUDA GPUs, and nobody else computes on them."""
    import torch

    from meshwright.executor.measure_hardware.machine import gpu_uuid
    from meshwright.executor.measure_hardware.nvidia_smi import gpu_processes
    from meshwright.executor.measure_hardware.occupancy import occupants

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (this PyTorch is built without CUDA)"
        raise InputError("profile", "", f"needs a CUDA GPU that PyTorch sees{built}; {SHIPPED}")
    if shared:
        return
    processes = gpu_processes()  # before this process is one of them, maybe under a number that it does not know
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    used = [total - free for free, total in (torch.cuda.mem_get_info(gpu) for gpu in gpus)]
    others = occupants(processes, [gpu_uuid(gpu) for gpu in gpus], [float(each) for each in used])
    if others:
        raise InputError("profile", "", f"the GPUs are in use: {others}; --shared measures all the same")
