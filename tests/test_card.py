"""The card of adaptive gradient clipping: its code runs, and its advice is what the records say."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc
from nbrepro.book import card, clipping
from nbrepro.book.chapter import recorded
from nbrepro.book.figures.outcome_table import told_of
from nbrepro.book.figures.runs import Ends, ends, runs_of
from nbrepro.experiments.adaptive_gradient_clipping import FREE
from nbrepro.records.ledger import Record

CARD = nbformat.read(Path(__file__).parents[1] / "book" / "agc.ipynb", as_version=4).cells
TEXT = "\n".join(cell.source for cell in CARD if cell.cell_type == "markdown")
#: Words before a block of code → the block.
BLOCKS = {
    re.sub(r"\W+", " ", TEXT[: found.start()][-60:]).strip(): found[1]
    for found in re.finditer(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
}


class Net(nn.Module):
    """A network whose classifier is called ``fc``; with labels it returns a loss, as some do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.fc(self.body(images).tanh())
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels)}


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(count)]


def block(words: str) -> str:
    """The block of the card that stands after these words."""
    (found,) = (code for before, code in BLOCKS.items() if before.endswith(words))
    return found


def run(words: str, **names: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"torch": torch, "agc": agc, "model": Net(), "batches": batches(),
                             "loss_function": F.cross_entropy, "device": "cpu"}  # fmt: skip
    space |= names
    exec(block(words), space)
    return space


def by_hand(optimizer: Callable[[Any], torch.optim.Optimizer], parts: int = 1) -> nn.Module:
    """The plain loop, with as many micro-batches per step."""
    model = Net()
    stepper = optimizer(model.parameters())
    for number, (images, labels) in enumerate(batches(), 1):
        (F.cross_entropy(model(images), labels) / parts).backward()
        if number % parts == 0:
            clipped = agc.clip_grads_(model.named_parameters(), exclude=["fc.weight"])
            assert agc.share(clipped) > 0
            stepper.step()
            stepper.zero_grad()
    return model


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def assert_same(one: nn.Module, other: nn.Module, rtol: float = 0, atol: float = 0) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_every_block_of_the_card_is_run_by_a_test() -> None:
    tested = re.findall(r'(?:run|block)\("([^"]+)"', Path(__file__).read_text(encoding="utf-8"))
    assert {block(words) for words in tested} == set(BLOCKS.values())
    assert len(BLOCKS) == 7


def test_ones_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    model = run("and safetensors")["model"]
    sgd = run("how fast speed")["model"]
    assert_same(
        model,
        by_hand(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    )
    assert not torch.equal(sgd.fc.weight, Net().fc.weight)
    assert len(re.findall(r"\d% of all units clipped", capsys.readouterr().out)) == 2


def test_the_fifteen_lines_clip_as_the_library_does() -> None:
    (code,) = (cell.source for cell in CARD if "def adaptive_clip_" in cell.source)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    space: dict[str, Any] = {}
    exec(code, space)
    shapes = [(), (6,), (5, 1, 1, 1), (1, 4), (4, 1), (4, 7), (5, 3, 2, 4), (0, 3)]
    pairs = []
    for _ in range(2):
        torch.manual_seed(2)
        named = [(f"p{n}", nn.Parameter(torch.randn(shape))) for n, shape in enumerate(shapes)]
        for _, parameter in named:
            parameter.grad = 0.02 * torch.rand(()) * torch.randn(parameter.shape)
        pairs.append([*named, ("unused", nn.Parameter(torch.ones(2)))])
    space["adaptive_clip_"](pairs[0], exclude=["p5"])
    clipped = agc.clip_grads_(pairs[1], exclude=["p5"])
    assert 0 < agc.share(clipped) < 1
    for (_, one), (_, other) in zip(*pairs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_loss_scaler(capsys: pytest.CaptureFixture[str]) -> None:
    model = run("Loss scaler")["model"]
    reference = by_hand(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    assert_same(model, reference, rtol=0.02, atol=0.002)  # autocast computes in bfloat16
    assert "Clipped(" in capsys.readouterr().out


def test_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True)  # the card's own takes the device from here
    loader: Any = torch.utils.data.DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]
    model = run("Accelerate", batches=loader)["model"]
    assert_same(model, by_hand(adamw, parts=2))


def test_a_compiled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="eager"))
    assert_same(run("torch compile")["model"], by_hand(adamw))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Puts a module of that name where none is installed; whether it is the real one."""

    def put(name: str, **contents: Any) -> bool:
        if importlib.util.find_spec(name):
            return True
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        return False

    return put


@pytest.mark.filterwarnings("ignore")  # the real one warns of what it finds around it
def test_lightning(stand_in: Callable[..., bool]) -> None:
    """Which gives ``step`` a closure that zeroes, computes the loss and goes backward."""
    real = stand_in("pytorch_lightning", LightningModule=nn.Module)
    space = run("Lightning")
    model = space["Classifier"](Net())
    if real:
        silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = space["pytorch_lightning"].Trainer(max_epochs=1, accelerator="cpu", **silent)
        trainer.fit(model, torch.utils.data.DataLoader(batches(), batch_size=None))  # type: ignore[arg-type]
    else:
        optimizer = model.configure_optimizers()
        for number, batch in enumerate(batches()):

            def closure(batch: Any = batch, number: int = number) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = model.training_step(batch, number)
                loss.backward()
                return loss

            optimizer.step(closure=closure)
    assert_same(model.model, by_hand(adamw))


class Trainer:
    """Calls things in the order in which the Trainer of Transformers does."""

    def __init__(self, model: Any, arguments: Any, train_dataset: Any, optimizers: Any) -> None:
        self.model, self.arguments, self.images, self.optimizers = (
            model, arguments, train_dataset, optimizers)  # fmt: skip

    def train(self) -> None:
        optimizer, schedule = self.optimizers
        for images, labels in self.images:
            self.model(images, labels)["loss"].backward()
            if self.arguments.max_grad_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
            optimizer.step()
            schedule.step()
            self.model.zero_grad()


def test_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in in any case: the real one reads data of another form."""
    names = {"Trainer": Trainer, "TrainingArguments": lambda _, **given: SimpleNamespace(**given)}
    module = ModuleType("transformers")
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "transformers", module)
    model = run("Transformers", images=batches(), steps=10**9)["model"]  # so long that it is flat
    assert_same(model, by_hand(adamw))


def test_what_other_libraries_call_the_same() -> None:
    timm = pytest.importorskip("timm")
    one, other = Net(), Net()
    for model in (one, other):
        F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    (line,) = re.findall(r"`(dispatch_clip_grad\(.*?mode=\"agc\"\))`", TEXT)
    names = {"model_parameters": timm.models.model_parameters}
    exec(line, {"model": one, "dispatch_clip_grad": timm.utils.dispatch_clip_grad, **names})
    agc.clip_grads_(other.named_parameters(), exclude=["fc.*"], units="timm")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_optax_calls_it_so() -> None:
    optax = pytest.importorskip("optax")
    numpy = pytest.importorskip("numpy")
    (line,) = re.findall(r"`(optax\.chain\(.*?\)\))`", TEXT)
    eval(line, {"optax": optax})
    weight = nn.Parameter(torch.randn(4, 5))
    weight.grad = 0.02 * torch.randn(4, 5)
    kernel, gradient = ({"w": x.detach().numpy().T} for x in (weight, weight.grad))
    clip = optax.adaptive_grad_clip(0.01, eps=1e-3)
    theirs, _ = clip.update(gradient, clip.init(kernel), kernel)
    agc.clip_grads_([("weight", weight)])
    assert numpy.allclose(numpy.asarray(theirs["w"]).T, weight.grad.numpy(), rtol=1e-6)


# --- numbers and advice ---


@pytest.fixture(scope="module")
def records() -> Any:
    return recorded("adaptive_gradient_clipping")


@pytest.mark.parametrize(("rate", "clip"), [(0.1, 0.01), (1.6, 0.01), (0.4, 0.16)])
def test_steps_of_a_clipped_zero_are_those_of_torch(rate: float, clip: float) -> None:
    scalar = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([scalar], rate, 0.9, nesterov=True)
    agc.attach(optimizer, [("skip_gain", scalar)], clip)
    path: list[float] = []
    while not path or path[-1] < 1:
        scalar.grad = torch.tensor(-1.0, dtype=torch.float64)
        optimizer.step()
        path.append(scalar.item())
    for target in (0.001, 0.1, 1.0):
        assert clipping.steps_to(target, rate, clip) == 1 + sum(w < target for w in path)


def test_a_run_is_counted_once(records: Any) -> None:
    assert len({record.spec.hash for record in records}) == len(records)


def test_the_advice_on_small_batches_is_what_the_records_say(records: Any) -> None:
    setting = {"batch_size": 64, "lr": 0.1}
    free = Ends.of(runs_of(records, {**clipping.NONE, **setting}))
    small, large = (
        Ends.of(runs_of(records, {**clipping.AGC, **setting, "clipping": x})) for x in (0.01, 0.16)
    )
    assert small.interval[1] < free.interval[0], "λ = 0.01 costs accuracy"
    assert large.mean > free.mean - 1, "λ = 0.16 does not"


def test_the_advice_on_the_global_norm_is_what_the_records_say(records: Any) -> None:
    tried = {(r.spec.batch_size, r.spec.lr) for r in runs_of(records, {"clip": "norm"})}
    assert tried
    for batch, rate in tried:
        setting = {"batch_size": batch, "lr": rate}
        norms = ends(runs_of(records, {"clip": "norm", **setting}), "clipping")
        best = max(norms.values(), key=lambda found: (len(found.survivors), found.mean))
        assert not best.failed
        for form in (clipping.AGC, clipping.PAPERS):
            arm = {key: value for key, value in form.items() if key != "clipping"}
            for found in ends(runs_of(records, {**arm, **setting}), "clipping").values():
                assert found.failed or found.mean <= best.mean
    large = ends(runs_of(records, {"clip": "norm", "lr": 1.6}), "clipping")
    others = [found for threshold, found in large.items() if threshold != 0.25]
    assert sum(len(found.failed) for found in others) > sum(found.n for found in others) / 2


@pytest.fixture(scope="module")
def evidence() -> list[Record]:
    return card.evidence()


def test_the_figure_has_every_batch_and_rate_at_which_agc_was_run(evidence: list[Record]) -> None:
    chart = card.which(evidence)
    for run in evidence:
        if run.spec.clip == "agc":
            assert f"{run.spec.batch_size} · {run.spec.lr:g}" in chart.alt
    assert {run.spec.batch_size for run in evidence} >= {4, 16, 64, 256, 1024}
    free = Ends.of(
        r for r in runs_of(evidence, {**clipping.NONE, **clipping.LARGE}) if r.spec.epochs == 6
    )
    assert f"256 · 1.6: none {told_of(free)}" in chart.alt
    assert "256 · 1.6 *: " in chart.alt


def test_no_run_is_counted_twice_and_none_of_another_kind(evidence: list[Record]) -> None:
    assert len({run.spec.hash for run in evidence}) == len(evidence)
    assert {run.spec.clip for run in evidence} == {"none", "agc", "norm"}
    assert not any(run.spec.randaugment or run.spec.model.startswith("bn_") for run in evidence)


BASE = clipping.OURS.replace(batch_size=64, lr=0.1)


def made(accuracies: list[float], **settings: Any) -> list[Record]:
    """One run per accuracy; those below 0.2 failed."""
    clipped = {"clipped": settings.pop("clipped", 0.5)} if settings.get("clip") == "agc" else {}
    runs = []
    for seed, accuracy in enumerate(accuracies):
        spec = BASE.replace(seed=seed, **settings)
        row = {"epoch": 1, "step": 1, "test_accuracy": accuracy, **clipped}
        runs.append(Record(spec, "completed", {"test_accuracy": accuracy}, [row], {}))
    return runs


AGC = {"clip": "agc", "unclipped": FREE}
GOOD, BETTER, BAD = [0.40, 0.41, 0.42], [0.45, 0.461, 0.472], [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("free", "small", "told"),
    [
        (GOOD, BETTER, "λ = 0.01 gained 5.1 points"),
        (BETTER, GOOD, "λ = 0.01 cost 5.1 points"),
        (GOOD, [0.41, 0.40, 0.42], "λ = 0.01 made no clear difference to no clipping"),
        (BAD, GOOD, "λ = 0.01 let 3 of 3 runs train, no clipping 0 of 3"),
    ],
)
def test_small_batches_in_words(free: list[float], small: list[float], told: str) -> None:
    runs = [*made(free), *made(small, **AGC), *made(free, clipping=0.16, **AGC)]
    assert told in card.small_batch(runs)
    assert "more than one λ" in card.small_batch(made(free))


def test_tiny_batches_in_words() -> None:
    assert "without it 3 of 3 runs trained, so none needed it" in card.tiny_batches(
        made(GOOD, batch_size=4)
    )
    assert "0 of 3 runs trained, so some might" in card.tiny_batches(made(BAD, batch_size=4))
    assert card.tiny_batches(made(GOOD)) == ""


def test_large_rates_in_words() -> None:
    assert "survived without clipping" in card.large_rates([*made(GOOD), *made(GOOD, **AGC)])
    saved = card.large_rates([*made(BAD), *made(GOOD, **AGC)])
    assert "with 1 combination of network, batch and rate" in saved
    assert saved.endswith("most trained with 1 of them.")
    assert "most trained with 0 of them" in card.large_rates([*made(BAD), *made(BAD, **AGC)])


def test_with_which_threshold_to_begin() -> None:
    """The largest that often helps where most runs fail without clipping."""
    hard: dict[str, Any] = {"batch_size": 256, "lr": 1.6}
    runs = [*made(GOOD), *made(GOOD, **AGC), *made(BAD, **hard), *made(GOOD, **AGC, **hard)]
    told = card.begin(runs).data
    assert "With 1 of 2 combinations of network, batch and rate most runs trained" in told
    assert "take λ = 0.01.**" in told
    runs += [*made(GOOD, clipping=0.04, **AGC, **hard), *made(BAD, clipping=0.16, **AGC, **hard)]
    told = card.begin(runs).data
    assert "take λ = 0.04, then 0.01.**" in told
    assert "λ = 0.16 at 0 of 1, λ = 0.04 at 1 of 1, λ = 0.01 at 1 of 1" in told
    assert "helps often" in card.begin([*made(BAD, **hard), *made(BAD, **AGC, **hard)]).data
    easy = card.begin([*made(GOOD), *made(GOOD, **AGC)]).data
    assert "If runs fail" not in easy
    whole: dict[str, Any] = {"dataset": "cifar10-jpeg", "unclipped": ("fc.weight",)}
    easy = card.begin([*made(BETTER, **whole), *made(GOOD, clip="agc", **whole)]).data
    assert "at batch 64 and the paper's rate all did, and λ = 0.01 cost 5.1 points" in easy


@pytest.mark.parametrize(
    ("agc_ends", "norm_ends", "told"),
    [
        (GOOD, BETTER, "threshold 1 gained 5.1 points"),
        (BETTER, GOOD, "threshold 1 cost 5.1 points"),
        (GOOD, BAD, "1 let 0 of 3 runs train, the best λ, 0.01 with SkipInit left alone 3 of 3"),
    ],
)
def test_the_global_norm_in_words(agc_ends: list[float], norm_ends: list[float], told: str) -> None:
    other = made(BAD, clip="norm", clipping=4.0)
    runs = [*made(agc_ends, **AGC), *made(norm_ends, clip="norm", clipping=1.0), *other]
    text = card.norm(runs)
    assert told in text
    assert "(3 of 3 runs with other thresholds failed)" in text
    assert card.norm(made(GOOD)).startswith("We have not run")


def test_the_global_norm_on_whole_images_is_a_case_of_its_own() -> None:
    small = [*made(GOOD, **AGC), *made(BETTER, clip="norm", clipping=1.0)]
    whole: dict[str, Any] = {"dataset": "cifar10-jpeg", "model": "cifar_nf_resnet8"}
    large = [*made(BETTER, **AGC, **whole), *made(GOOD, clip="norm", clipping=1.0, **whole)]
    text = card.norm([*small, *large])
    assert "on whole images threshold 1 cost 5.1 points" in text
    assert "0.1 threshold 1 gained 5.1 points" in text


def test_whole_images_in_words() -> None:
    whole = {"dataset": "cifar10-jpeg", "unclipped": ("fc.weight",)}
    large = {**whole, "batch_size": 4096, "lr": 1.6}
    runs = [
        *made(BETTER, **whole),
        *made(GOOD, clip="agc", **whole),
        *made(BAD, **large),
        *made(GOOD, clip="agc", clipping=0.04, **large),
        *made(BAD, clip="agc", clipping=0.16, **large),
    ]
    # left alone, SkipInit makes it another form
    free = made(BETTER, clip="agc", clipping=0.04, **{**large, "unclipped": FREE})
    told = card.whole_images([*runs, *free])
    assert "λ = 0.01 cost 5.1 points" in told
    assert told.endswith(
        "at batch 4096 and rate 1.6, λ = 0.04 let 3 of 3 runs train, no clipping 0 of 3."
    )
    assert "+0.5 points from no clipping, one seed" in card.whole_images(
        [*made([0.4], **whole), *made([0.405], clip="agc", **whole)]
    )
    assert card.whole_images(made(GOOD, **AGC)) == ""


def test_clipped_shares_in_words() -> None:
    runs = [*made(GOOD, **AGC, clipped=0.5), *made(GOOD, **AGC, clipped=0.9, lr=0.4)]
    assert "λ = 0.01 clips 50 to 90 %" in card.clipped_shares(runs)
    assert "clips 50 %" in card.clipped_shares(made(GOOD, **AGC))
    assert card.clipped_shares(made(BAD, **AGC)) == "No run recorded what it clipped."


def test_advice_has_no_empty_line(evidence: list[Record]) -> None:
    text = card.advice(evidence).data
    assert "Strong augmentation" not in text
    assert text.count("\n") == 3
    assert "**Strong augmentation.** It is so." in card.advice(evidence, "It is so.").data
