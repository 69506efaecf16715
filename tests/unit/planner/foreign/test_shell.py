from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.foreign.shell.commands import split_commands
from meshwright.planner.foreign.shell.conditions import decide
from meshwright.planner.foreign.shell.expansion import Variables, arithmetic
from meshwright.planner.foreign.shell.launch import find_launch, split_options
from meshwright.planner.foreign.shell.script import follow

KNOWN = frozenset({"--hidden-size", "--num-layers", "--bf16", "--moe-layer-freq"})


def words(script: str, **environment: str) -> list[tuple[str, ...]]:
    return [command.words for command in follow("train.sh", script, environment).commands]


def test_comments_continued_lines_and_operators_separate_commands() -> None:
    script = "a b # c\n  d \\\n e; f && g 'h # i'\n"
    assert [[word.text for word in command.words] for command in split_commands("x", script)] == [
        ["a", "b"],
        ["d", "e"],
        ["f"],
        ["g", "'h # i'"],
    ]


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("$A", ["1"]),
        ("x${A}y", ["x1y"]),
        ("${A:-8}", ["1"]),
        ("${NONE:-8}", ["8"]),
        ("${EMPTY:-8}", ["8"]),
        ("${EMPTY-8}", []),
        ('"${EMPTY-8}"', [""]),
        ('${NONE:-"two words"}', ["two words"]),
        ("${NONE:-$A}", ["1"]),
        ("${A:+yes}", ["yes"]),
        ("$TWO", ["p", "q"]),
        ('"$TWO"', ["p q"]),
        ("'$A'", ["$A"]),
        (r"\$A", ["$A"]),
        ("$((A*8+2/2))", ["9"]),
        ("$(($A * 8))", ["8"]),
        ("${LIST[@]}", ["u", "v", "w"]),
        ('"${LIST[@]}"', ["u", "v w"]),
        ("$NONE", ["$NONE"]),
        ("$(hostname -s)", ["$(hostname -s)"]),
    ],
)
def test_expansion(written: str, expanded: list[str]) -> None:
    variables = Variables({"A": "1", "TWO": "p q", "EMPTY": ""})
    variables.values["LIST"] = ["u", "v w"]
    assert variables.fields(written) == expanded


def test_what_nothing_sets_stays_as_it_is_written_and_is_remembered() -> None:
    variables = Variables({})
    assert variables.joined('"$PATH/x"') == "$PATH/x"
    assert variables.unresolved == {"PATH"}
    assert arithmetic(variables, "PATH * 2") is None


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ('[ "$A" = 1 ]', True),
        ('[[ "$A" == "2" ]]', False),
        ("[ $A -ge 2 ]", False),
        ("(( A < 2 ))", True),
        ("[ -n $A ]", True),
        ("[ -z $A ]", False),
        ("[[ $A == 1 && $A != 2 ]]", True),
        ("[ ! $A = 1 ]", False),
        ("! [ $A = 1 ]", False),
        ("[ -f $A ]", None),
        ("[ -n $NONE ]", None),
        ("[[ $A == 1 || -f x ]]", True),
        ("grep x y", None),
    ],
)
def test_conditions(test: str, holds: bool | None) -> None:
    assert decide(test.split(), Variables({"A": "1"})) is holds


def test_a_condition_that_holds_is_followed_and_its_other_branches_are_not() -> None:
    script = """
A=2
if [ $A = 1 ]; then
    B=one
elif [ $A = 2 ]; then
    if [[ $A == 3 ]]; then B=three; else B=two; fi
else
    B=other
fi
run $B
"""
    assert words(script) == [("run", "two")]


def test_what_only_the_machine_knows_is_noted_with_its_line() -> None:
    script = "if [ -f x ]; then\n  TP=2\nfi\nwhile read line; do\n  TP=$line\ndone\nsource cluster.sh\nrun $TP\n"
    followed = follow("train.sh", script, {})
    assert [note.partition(":")[0] for note in followed.notes] == ["line 1", "line 4", "line 7"]
    assert followed.commands[-1].words == ("run", "$TP")


def test_the_environment_fills_in_what_the_script_leaves_open() -> None:
    assert words("run ${TP:-8} $MBS", TP="2", MBS="4") == [("run", "2", "4")]


def test_arrays_grow() -> None:
    assert words("A=(a # one\n b)\nA+=(c)\nB=x\nB+=y\nrun ${A[@]} $B") == [("run", "a", "b", "c", "xy")]


def test_the_body_of_a_here_document_is_no_command() -> None:
    assert words("sbatch <<EOF\nrun --hidden-size 1\nEOF\nend") == [("sbatch", "<<EOF"), ("end",)]


def test_options_take_the_words_up_to_the_next_one() -> None:
    options = split_options(("x", "--a", "1", "-2", "--b=3", "--c", "-d", "4"))
    assert [(option.name, option.values) for option in options] == [
        ("--a", ("1", "-2")),
        ("--b", ("3",)),
        ("--c", ()),
        ("-d", ("4",)),
    ]


def test_the_command_with_the_framework_s_options_is_the_launch() -> None:
    script = "echo --bf16\nN=4\ntorchrun --nnodes=$N --nproc-per-node 8 \\\n  pretrain.py --hidden-size 64 --bf16\n"
    launch = find_launch("train.sh", script, {}, KNOWN)
    assert [(option.name, option.values, option.line) for option in launch.options] == [
        ("--hidden-size", ("64",), 4),
        ("--bf16", (), 1),
    ]
    assert launch.num_gpus == 32


def test_a_command_that_stands_as_text_is_found() -> None:
    script = 'CMD="python pretrain.py --hidden-size 64 --moe-layer-freq [0]*3+[1]*58"\nsrun bash -c "$CMD"\n'
    options = find_launch("train.sh", script, {}, KNOWN).options
    assert [option.text for option in options] == ["--hidden-size 64", "--moe-layer-freq [0]*3+[1]*58"]


@pytest.mark.parametrize(
    ("text", "num_gpus"),
    [
        ("#SBATCH --nodes=4\n#SBATCH --gres=gpu:8\npython t.py --bf16", 32),
        ("#SBATCH -N 2\n#SBATCH --ntasks-per-node 4\npython t.py --bf16", 8),
        ("torchrun --nproc_per_node 8 t.py --bf16", 8),
        ("python t.py --bf16", None),
        ("torchrun --nnodes $N --nproc_per_node $P t.py --bf16", None),
    ],
)
def test_the_number_of_gpus(text: str, num_gpus: int | None) -> None:
    assert find_launch("train.sh", text, {}, KNOWN).num_gpus == num_gpus


@pytest.mark.parametrize("script", ["run 'x", 'run "x', "A=(a b\nrun", "run ${A"])
def test_what_is_not_closed_is_an_error_with_its_line(script: str) -> None:
    with pytest.raises(InputError, match=r"train\.sh:1.*not closed"):
        follow("train.sh", script, {})


@pytest.mark.parametrize("line", ["count = 3", 'test "$A" = b && echo', '[ "$A" == b ]', "echo = --"])
def test_words_that_begin_with_an_equals_sign_are_passed_over(line: str) -> None:
    launch = find_launch("train.sh", f"{line}\npython train.py --num-layers 4\n", {}, KNOWN)
    assert [option.name for option in launch.options] == ["--num-layers"]


def test_a_script_without_a_launch_is_an_error() -> None:
    with pytest.raises(InputError, match="holds no training command"):
        find_launch("train.sh", "echo hello\n", {}, KNOWN)
