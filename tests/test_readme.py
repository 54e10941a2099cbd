"""The parts of the README that are made from the results: what was found, and the gallery."""

import json
import re
import shutil

import pytest
import yaml
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import claims, config, report
from lib.report.gallery import PARTS, judged, scales_of


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))


def make(item, scale="smoke", clean=0.7, **more):
    """A record of accuracies at two temperatures, with a picture."""
    drawn = Figure(figsize=(2, 1))
    drawn.subplots()
    settings = [{"temperature": t} for t in (1, 20)]
    write(item, accuracies(settings, lambda s, e: falling(clean, 0.5, e)), scale, figure=drawn, **more)


def test_every_claim_of_a_paper_is_counted_once():
    make("robustness_fig7", reduced=["5 epochs"])
    report.build("smoke")
    cells = [line.split("|")[1:-1] for line in report.gallery_markdown().splitlines() if line[:1] == "|"]
    counts = {row[0].strip(): [[int(n) for n in cell.split("+")] for cell in row[2:]] for row in cells[2:]}
    verdicts = [verdict for verdict in claims.verdicts("smoke") if verdict.paper == "Maestrati 2020"]
    testable = [verdict for verdict in verdicts if verdict.verdict != claims.NOT_TESTABLE]
    waiting = [sum(v.ours is ours for v in verdicts if v not in testable) for ours in (False, True)]
    assert testable and all(waiting) and counts["Maestrati 2020"][-1] == waiting
    sums = [sum(cell[k] for cell in counts["Maestrati 2020"] if len(cell) > k) for k in (0, 1)]
    assert sums == [sum(v.ours is ours for v in verdicts) for ours in (False, True)]


def items_of(paper):
    """How many tables and figures of a paper the package has."""
    return sum(item.paper == paper for item in config.items().values())


def test_parts_of_a_readme_are_rewritten_between_their_markers(tmp_path, capsys):
    make("robustness_fig7", reduced=["5 epochs"])
    report.build("smoke")
    readme = tmp_path / "my docs" / "README.md"
    readme.parent.mkdir()
    marks = {name: (f"<!-- {name}:start -->", f"<!-- {name}:end -->") for name in PARTS}
    old = "\n\n".join(f"{start}\nold\n{end}" for start, end in marks.values())
    readme.write_text(f"# Top\n\n{old}\n\nbottom\n")
    assert report.main(["--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("# Top\n\n") and text.endswith("\n\nbottom\n") and "\nold\n" not in text
    targets = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r'<img src="([^"]*)"', text)
    assert "../results/smoke/figures/robustness_fig7.png" in targets
    assert all((readme.parent / target).is_file() for target in targets if not target.startswith("https://"))
    assert "1 setting reduced" in text
    assert f"| Maestrati 2020 | 1 of {items_of('Maestrati 2020')} (`smoke`) |" in text
    assert all(part(readme.parent) in text for part in PARTS.values())
    report.main(["--readme", str(readme)])
    assert readme.read_text() == text
    start, end = marks["findings"]
    for damaged in ("no markers", text.replace(end, ""), f"{end}\n{start}", text + start):
        readme.write_text(damaged)
        assert report.main(["--readme", str(readme)]) == 1
        assert str(readme) in capsys.readouterr().err and readme.read_text() == damaged


def test_the_gallery_shows_each_item_at_the_largest_scale_it_has_run_at():
    for item in ("robustness_fig7", "robustness_fig8", "robustness_masking", "nnslicer_anatomy"):
        make(item, "smoke", 0.5)
    assert set(scales_of().values()) == {"smoke"}  # nothing else is there
    for item in ("robustness_fig7", "robustness_fig8", "robustness_masking"):
        make(item, "cpu", 0.6)
    make("robustness_fig7", "paper", 0.7)
    at = scales_of()
    assert at == {"robustness_fig7": "paper", "robustness_fig8": "cpu", "robustness_masking": "cpu"}
    for scale in ("smoke", "cpu", "paper"):
        report.build(scale)
    text = report.gallery_markdown()
    assert f"| Maestrati 2020 | 3 of {items_of('Maestrati 2020')} (1 at `paper`, 2 at `cpu`) |" in text
    assert f"| 0 of {items_of('Zhang et al. 2020')} |" in text
    assert "results/paper/figures/robustness_fig7.png" in text and "results/cpu/figures/robustness_fig7.png" not in text
    assert "**, at `paper` (" in text and "results/smoke" not in text


def claims_file(scale, **verdicts):
    """A claims.json with each claim of the package: not testable, but for those named."""
    folder = config.results_dir(scale)
    folder.mkdir(parents=True, exist_ok=True)
    found = [json.loads(json.dumps({**vars(one), "evidence": []})) for one in claims.verdicts(scale)]
    for claim in found:
        claim["verdict"] = verdicts.get(claim["id"].replace("-", "_"), claims.NOT_TESTABLE)
    (folder / "claims.json").write_text(json.dumps({"scale": scale, "claims": found}))
    return found


def test_a_claim_is_of_the_largest_scale_that_can_test_it():
    claims_file("smoke", robust_is_sparse="reproduced", robust_is_low_rank="open")
    assert {one["scale"] for one in judged().values()} == {"smoke"}
    claims_file("cpu", robust_is_sparse="contradicted", robust_is_low_rank="open", low_rank_no_gain="open")
    claims_file("gpu", robust_is_sparse="open", robust_is_low_rank="open", nuclear_norm_helps="not reproduced")
    claims_file("paper")
    shown = {name: (one["verdict"], one["scale"]) for name, one in judged().items()}
    assert set(shown) == set(claims.load())
    assert shown["robust-is-sparse"] == ("open", "gpu")  # decided at the smaller one, untested at the largest
    assert shown["robust-is-low-rank"] == ("open", "gpu") and shown["low-rank-no-gain"] == ("open", "cpu")
    assert shown["nuclear-norm-helps"] == ("not reproduced", "gpu")
    assert shown["slices-prune-best"] == (claims.NOT_TESTABLE, "paper")


def test_what_was_found_is_told_as_the_claims_file_of_the_named_scale_has_it():
    chosen = config.read_yaml(config.ROOT / "config" / "readme.yaml")["findings"]
    found = claims_file("cpu", **{name.replace("-", "_"): "contradicted" for name in chosen})
    for number, claim in enumerate(found):
        texts = (f"effect {number}", f"beside {number}")
        claim["effects"], claim["controls"] = ([{"name": "x", "unit": "fraction", "text": text}] for text in texts)
        claim["statement"], claim["networks"] = f"statement {number}", []
        claim["networks"] = [{"arch": "net", "low": 0.5, "high": number / 1000, "usual": 0.9, "below": True}]
    (config.results_dir("cpu") / "claims.json").write_text(json.dumps({"scale": "cpu", "claims": found}))
    rows = [line.split(" | ") for line in report.findings_markdown().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(chosen)
    numbers = {claim["id"]: number for number, claim in enumerate(found)}
    addresses = {w.get("doi"): w for w in config.read_yaml(config.ROOT / "CITATION.cff")["references"]}
    for name, (paper, statement, stated, ours, verdict, where) in zip(chosen, rows, strict=True):
        claim, number = claims.load()[name], numbers[name]
        assert claim.paper in paper and statement == f"statement {number}" and verdict == "⊘ contradicted"
        assert ours == f"x effect {number}; control: x beside {number}"
        assert where == f"`cpu`: net {number / 10:.1f} % (usual 90 %) |".replace(".0 %", " %")
        assert (stated == "our own claim") is claim.ours
        doi = re.search(r"doi\.org/([^)]+)", paper)
        assert doi is None or addresses[doi[1]]["abbreviation"] == claim.paper


def test_what_a_paper_states_is_read_off_the_rule():
    known = claims.load()
    words = {name: [claims.stated_words(rule, "fraction") for rule in claim.rules] for name, claim in known.items()}
    assert words["slices-detect-adversarials"] == ["recall 100 %", "precision 83 %"]
    left, lost = words["unlearning-leaves-backdoors"]
    assert (left, lost) == ("attack success rate that is left 36 %", "accuracy lower by 2 points")
    assert words["flipping-keeps-accuracy"] == ["accuracy at least -1 points"]
    assert words["temperature-helps-aware"] == [""]  # how much counts is ours
    assert words["decisions-cluster-by-class"] == [""]  # chance, not stated


@pytest.mark.parametrize(("key", "file"), [("findings", "claims.yaml"), ("figures", "items.yaml")])
def test_a_name_that_is_not_there_is_one_clear_error(key, file, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "config"
    shutil.copytree(config.ROOT / "config", folder)
    monkeypatch.setenv("NEURONS_CONFIG", str(folder))
    (folder / "readme.yaml").write_text(yaml.safe_dump({"findings": [], "figures": [], key: ["no-such-name"]}))
    readme = tmp_path / "README.md"
    text = "".join(f"<!-- {name}:start -->\n<!-- {name}:end -->\n" for name in PARTS)
    readme.write_text(text)
    assert report.main(["--readme", str(readme)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"readme.yaml: {key}: no 'no-such-name' in config/{file}" in said
    assert readme.read_text() == text


def test_a_finding_that_no_results_have_names_the_command_that_makes_them(tmp_path, capsys):
    (tmp_path / "README.md").write_text("<!-- findings:start -->\n<!-- findings:end -->\n")
    assert report.main(["--readme", str(tmp_path / "README.md")]) == 1
    said = capsys.readouterr().err
    assert "temperature-helps-aware" in said and "./run_all.sh report" in said
