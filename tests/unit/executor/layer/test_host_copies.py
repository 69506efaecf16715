"""Which tensors a rank's copies move when: stories of passes, told by the copies that they make."""

from __future__ import annotations

from meshwright.costmodel.program.operators import Pass
from meshwright.executor.layer.host_buffers import HostBuffers
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.offloaded import OffloadedTensors
from meshwright.executor.layer.values import Values

THROUGH = Values()


class Told(OffloadedTensors):
    """Tells what is done with it; "now" is between passes."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__(Values(), ("fc1_out",), HostBuffers())
        self.name, self._log, self._away, self._back = name, log, False, False

    @property
    def is_away(self) -> bool:
        return self._away

    def leave(self, through: Values) -> None:
        self._log.append(f"{self.name} leaves{'' if through is THROUGH else ' now'}")
        self._away = True

    def come(self, through: Values) -> None:
        if self._away:
            self._log.append(f"{self.name} comes{'' if through is THROUGH else ' now'}")
        self._away = False

    def settle(self) -> None:
        self.come(Values())
        self._log.append(f"{self.name} is there")


class Rank:
    """Passes of layers that all have copies."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.moves: list[bool] = []
        self.copies = HostCopies()

    def layers(self, *names: str) -> list[Told]:
        return [Told(name, self.log) for name in names]

    def forward(self, layers: list[Told]) -> None:
        for layer in layers:
            self.moves.append(self.copies.moves(Pass.FORWARD))
            self.copies.send(THROUGH)
            self.copies.end_forward(layer)

    def backward(self, layers: list[Told], behind: Told | None = None) -> None:
        for index in reversed(range(len(layers))):
            self.copies.begin_backward(layers[index], layers[index - 1] if index else behind)
            self.moves.append(self.copies.moves(Pass.DGRAD))
            self.copies.fetch(THROUGH)


def test_a_backward_behind_its_own_forward() -> None:
    rank = Rank()
    layers = rank.layers("a", "b", "c")
    rank.forward(layers)
    rank.backward(layers)
    assert rank.log == ["a leaves", "b leaves", "b comes", "b is there", "a comes", "a is there"]
    assert rank.moves == [False, True, True, True, True, False]


def test_a_backward_of_another_micro_batch_than_the_last_forward() -> None:
    rank = Rank()
    first, second = rank.layers("a0", "b0"), rank.layers("a1", "b1")
    rank.forward(first)
    rank.forward(second)
    assert rank.log == ["a0 leaves", "b0 leaves", "a1 leaves"]
    rank.log.clear()
    rank.backward(first)
    assert rank.log == ["b1 leaves now", "b0 comes now", "b0 is there", "a0 comes", "a0 is there"]


def test_a_backward_behind_a_backward() -> None:
    rank = Rank()
    first, second = rank.layers("a0", "b0"), rank.layers("a1", "b1")
    rank.forward(first)
    rank.forward(second)
    rank.log.clear()
    rank.backward(second, behind=first[-1])
    rank.backward(first)
    assert rank.log == ["a1 comes", "a1 is there", "b0 comes", "b0 is there", "a0 comes", "a0 is there"]


def test_layers_that_have_nothing_there_change_nothing() -> None:
    rank = Rank()
    (layer,) = rank.layers("a")
    rank.forward([layer])
    nothing = OffloadedTensors(Values(), (), HostBuffers())
    rank.copies.end_forward(nothing)  # its pass has no copy
    rank.copies.begin_backward(nothing, layer)
    rank.copies.fetch(THROUGH)
    rank.copies.begin_backward(layer, None)
    assert rank.log == []
