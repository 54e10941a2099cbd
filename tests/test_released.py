"""benchmarks.released: equal code agrees, a changed formula differs by its amount, what is missing is told."""

import json
import sys
from textwrap import dedent

import pytest
import torch

from benchmarks.released import __main__ as command
from benchmarks.released import lcs
from benchmarks.released.loading import CannotRun, Source, on_cpu, recording, same_noise
from benchmarks.released.rows import AGREES, CANNOT, DIFFERS, NOT_THERE, Steps, compared, settings, told

SCRIPT = """
import a_module_that_is_nowhere
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--rate", default=0.25, type=float)
parser.add_argument("-s", "--plain")
args = parser.parse_args(["--never"])
factor = 3


def doubled(x):
    return 2 * x.cuda()


def counted(x):
    return offset + factor * x


class Box:
    size = 4


if __name__ == "__main__":
    total = start
    for k in range(4):
        total += k
    total *= 100
"""
EQUAL, CHANGED = "X * (1 - mask) + trigger * mask", "X * (1 - mask) + trigger * mask * 0.75"
LOCATE = "BadNets/YoutubeFace/1.RegularTrigger/AILancet/Locate_EIneurons.py"


@pytest.fixture
def source(tmp_path):
    """A clone of one script that cannot be imported."""
    (tmp_path / "script.py").write_text(SCRIPT)
    return Source(tmp_path)


@pytest.fixture
def printed(monkeypatch, tmp_path, capsys, one_thread):
    """Runs the command on a folder of clones, files by path; what it prints."""

    def call(files, *words):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(dedent(text))
        monkeypatch.setattr(sys, "argv", ["released", "--code", str(tmp_path), *words])
        command.main()
        return capsys.readouterr().out

    return call


def test_what_is_named_is_taken_and_nothing_else_runs(source):
    taken = source.take("script.py", "doubled", "counted", "factor", offset=1)
    with on_cpu():
        assert taken.doubled(torch.tensor(2.0)) == 4
    assert taken.counted(2) == 7 and not hasattr(taken, "Box")


def test_statements_run_from_one_name_to_another(source):
    assert source.run("script.py", "total", "k", start=10).total == 16
    assert source.run("script.py", "total", start=10).total == 1600
    assert source.defaults("script.py") == {"rate": 0.25, "s": None}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.take("script.py", "tripled"), "tripled"),
        (lambda s: s.take("other.py", "doubled"), r"other\.py"),
        (lambda s: s.run("script.py", "nothing"), "nothing"),
        (lambda s: Source(s.folder / "clone"), "clone"),
        (lambda s: s.run("script.py", "factor", "Box").missing, None),
    ],
)
def test_what_is_missing_is_named(source, call, said):
    with pytest.raises(AttributeError if said is None else CannotRun, match=said):
        call(source)


def test_a_file_that_python_cannot_read_is_told(source):
    (source.folder / "old.py").write_text("print 'Python 2'")
    with pytest.raises(CannotRun, match=r"old\.py"):
        source.take("old.py", "doubled")


def test_two_ways_to_draw_gumbel_noise_meet():
    logits = torch.randn(50, 5)
    with same_noise(1):
        uniform = torch.rand(logits.shape)
    with same_noise(1):
        drawn = torch.nn.functional.gumbel_softmax(logits, 0.7)
    noise = -(-uniform.log()).log()
    torch.testing.assert_close(drawn, ((logits + noise) / 0.7).softmax(1))
    with same_noise(2):
        assert not torch.equal(torch.rand(logits.shape), uniform)


def test_an_optimiser_that_keeps_its_gradients_steps_as_before():
    one, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    idle = torch.nn.Parameter(torch.ones(1))
    kept, plain = recording(torch.optim.SGD)([one, idle], lr=0.1), torch.optim.SGD([other], lr=0.1)
    for parameter, optimizer in ((one, kept), (other, plain)):
        (parameter**2).sum().backward()
        optimizer.step()
    assert torch.equal(one, other)
    assert [gradient.tolist() for gradient in kept.seen[0]] == [[2.0] * 3, [0.0]]


def test_outcomes():
    values = torch.linspace(0, 2, 7)
    assert compared(values, values.clone()).amount == "bit for bit"
    assert compared(values, values * (1 + 1e-7)).agrees
    assert not compared(1e-6 * values, 2e-6 * values).agrees  # rounding is of the values' own size
    far = compared([values, values], [values, values + 0.5])
    assert not far.agrees and "5.0e-01" in far.amount
    assert not compared(values, values[:3]).agrees
    assert told(3, 3).agrees and not told(3, 4).agrees
    assert settings({"a": 1, "b": 2}, {"a": 1, "b": 3}).amount.startswith("b 2 (ours 3)")


def test_a_step_that_fails_does_not_stop_the_others(tmp_path):
    steps = Steps()

    @steps.agrees("broken")
    def _(_source):
        raise ZeroDivisionError("by nothing")

    @steps.differs("unexpected", "a reason that is not the reason")
    def _(_source):
        return told(1, 1)

    @steps.differs("expected", "a reason", "a statement")
    def _(_source):
        return told(1, 2)

    broken, unexpected, expected = steps.rows(tmp_path)
    assert broken.result == CANNOT and "by nothing" in broken.amount
    assert unexpected.result == AGREES and "a reason" not in unexpected.reason and unexpected.reason
    assert (expected.result, expected.reason, expected.stated) == (DIFFERS, "a reason", "a statement")


def test_every_folder_that_is_missing_is_told(printed):
    lines = printed({}).splitlines()
    counts = json.loads(lines[-1])
    assert counts == {"benchmark": "released", AGREES: 0, DIFFERS: 0, CANNOT: len(command.PAPERS), NOT_THERE: 0}
    for folder, *_ in command.PAPERS.values():
        assert any(CANNOT in line and folder in line for line in lines)


@pytest.mark.parametrize(("formula", "result"), [(EQUAL, AGREES), (CHANGED, DIFFERS)])
def test_an_equal_formula_agrees_and_a_changed_one_differs(tmp_path, formula, result):
    from benchmarks.released import lancet

    path = tmp_path / LOCATE
    path.parent.mkdir(parents=True)
    path.write_text(f"def add_trigger(X, mask, trigger):\n    return {formula}\n")
    row = _first(lancet.STEPS, tmp_path)
    assert row.result == result
    assert ("2.5e-01" in row.amount) == (result == DIFFERS)


def _first(steps, folder):
    """The first step alone: the others train a network."""
    alone = Steps()
    alone.all = steps.all[:1]
    return alone.rows(folder)[0]


# A decision unit of our own writing, in the form in which the command looks for one.
UNIT = """
class TorchGraph:
    def __init__(self):
        self._graph = {name: [] for name in ("head_params", "gate_params", "selected_channels", "temperature")}

    def append_tensor(self, name, value):
        self._graph[name].append(value)

    def get_tensor_list(self, name):
        return self._graph[name]

    def clear_all_tensors(self):
        self._graph["selected_channels"].clear()


default_graph = TorchGraph()


class DecisionHead(nn.Module):
    def __init__(self, inputs, outputs, rows):
        super().__init__()
        self.fc1 = nn.Linear(inputs, rows, bias=False)
        self.channel_gates = nn.Parameter(torch.ones(rows, outputs))

    def forward(self, x):
        chosen = self.fc1(F.relu(x).mean((2, 3))).argmax(1)
        return chosen, SCALE * self.channel_gates[chosen]


def apply_func(model, kind, function, **given):
    for module in list(model.modules()):
        if type(module).__name__ == kind:
            function(module, **given)


def replace_func(model, kind, function):
    apply_func(model, kind, lambda module: setattr(module, "forward", types.MethodType(function, module)))


def collect_params(head):
    default_graph.append_tensor("head_params", head.fc1.weight)
    default_graph.append_tensor("gate_params", head.channel_gates)


def normalize_head_weights(head):
    head.fc1.weight.data = F.normalize(head.fc1.weight.data, dim=1)


def init_decision_convbn(block, action_num):
    block.decision_head = DecisionHead(block.conv.in_channels, block.conv.out_channels, action_num)


def decision_convbn_forward(self, x):
    out = self.bn(self.conv(x))
    if self.conv.in_channels > 3:
        _, mask = self.decision_head(x)
        default_graph.append_tensor("selected_channels", mask)
        out = out * mask[:, :, None, None]
    return out.relu()
"""
VGG = """
class ConvBNReLU(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class CifarVGG(nn.Module):
    def __init__(self, depth, classes):
        super().__init__()
        parts, inputs = [], 3
        for size in defaultcfg[depth]:
            parts.append(nn.MaxPool2d(2) if size == "M" else ConvBNReLU(inputs, size))
            inputs = inputs if size == "M" else size
        self.feature, self.last = nn.Sequential(*parts, nn.AvgPool2d(2), nn.Flatten()), nn.Linear(inputs, classes)

    def forward(self, x):
        return self.last(self.feature(x))
"""


@pytest.mark.parametrize(("scale", "result"), [("1.0", AGREES), ("1.5", DIFFERS)])
def test_decision_units_of_a_whole_network(printed, scale, result):
    files = {"dynamic-pruning/decision.py": UNIT.replace("SCALE", scale), "dynamic-pruning/models/vgg.py": VGG}
    lines = printed(files, "--only", "lcs").splitlines()
    (line,) = [line for line in lines if lcs.STEPS.all[0].title in line]
    assert line.split()[0] == result
    drawn = json.loads(lines[-1])
    assert drawn[CANNOT] > 0, "there is no main.py: its steps are told, and do not stop the others"


def test_markdown_holds_a_table_of_equal_columns(printed):
    text = printed({}, "--markdown", "--only", "scratch")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and len({row.count("|") for row in rows}) == 1
