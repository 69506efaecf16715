from __future__ import annotations

from pathlib import Path

import pytest
import torch

from meshwright.costmodel.errors import InputError
from meshwright.executor.measure_hardware import machine, nvidia_smi, preflight
from meshwright.executor.measure_hardware.request import ProfileRequest

GIB = 2**30


def _request(folder: Path, **changes: object) -> ProfileRequest:
    given: dict[str, object] = {"output": folder / "p.json", "measurements": folder / "m.json", **changes}
    return ProfileRequest(**given)  # type: ignore[arg-type]  # checked by the values of each test


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with 30 GiB in use, as PyTorch tells it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (50 * GIB, 80 * GIB))
    monkeypatch.setattr(machine, "gpu_uuid", lambda _: "1")
    process = nvidia_smi.GpuProcess(uuid="GPU-1", pid=42, name="train.py", memory="30000 MiB")
    monkeypatch.setattr(nvidia_smi, "gpu_processes", lambda: (process,))


def test_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs PyTorch: pip install 'meshwright\[train\]'.*meshwright clusters"):
        preflight.check_torch()


def test_no_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"needs a CUDA GPU.*meshwright clusters"):
        preflight.check_request(_request(tmp_path))


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_that_others_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in use: process 42 \(train.py, 30000 MiB\); --shared"):
        preflight.check_request(_request(tmp_path))


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_that_others_use_all_the_same(tmp_path: Path) -> None:
    preflight.check_request(_request(tmp_path, shared=True))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        preflight.check_request(_request(tmp_path, output=tmp_path / "nowhere" / "p.json"))


def test_one_file_for_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected another file"):
        preflight.check_request(_request(tmp_path, measurements=tmp_path / "p.json"))
