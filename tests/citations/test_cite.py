"""What a run cites, entries that BibTeX reads, and a row for every recipe and mode."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from components import final
from unshaken.base.schedule import Constant
from unshaken.base.serialize import to_json
from unshaken.citations.cite import BIBLIOGRAPHY, cited, entries, of_network
from unshaken.citations.credits import CLUSTERS, GHOST_BATCH, METHODS, OF_DATA, OF_NETWORK, OF_TYPE
from unshaken.commands.catalog import cite
from unshaken.evaluation.protocol import Evaluation
from unshaken.methods.base import Method
from unshaken.methods.supervised import AFF
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.datasets import DATASETS
from unshaken.recipes.finetune import MODES, Finetune
from unshaken.train.best_weights import Best
from unshaken.train.optim import AdamW, Optimizer
from variants import for_each

HERE = Path(__file__).parent
PAGES = Path(__file__).parents[2] / "docs" / "methods"
SOURCE = Path(__file__).parents[2] / "src" / "unshaken"
RECORDED = (HERE / "printed.bib").read_text().rstrip("\n")
NEEDED = {
    "inproceedings": {"title", "author", "booktitle", "year"},
    "article": {"title", "author", "journal", "year"},
    "techreport": {"title", "author", "institution", "year"},
    "misc": {"title", "author", "year"},
}


def parsed(text: str) -> list[tuple[str, str, dict[str, str]]]:
    """Kind, key and fields of each entry, by counting braces as BibTeX does."""
    entries = []
    for head in re.finditer(r"@(\w+)\{([^,\s]+),", text):
        body, depth = "", 1
        for letter in text[head.end() :]:
            depth += {"{": 1, "}": -1}.get(letter, 0)
            if not depth:
                break
            body += letter
        assert not depth, f"{head[2]} is not closed"
        fields = re.findall(r"^\s*(\w+)\s*= \{(.*)\},?$", body.strip(), re.MULTILINE)
        assert len(fields) == len(body.strip().splitlines()), f"{head[2]} has a line that is no field"
        assert len(dict(fields)) == len(fields), f"{head[2]} has a field twice"
        entries.append((head[1], head[2], dict(fields)))
    return entries


@for_each(BIBLIOGRAPHY.values(), lambda p: p.key)
def test_bibtex_is_read(paper):
    ((kind, key, fields),) = parsed(paper.bibtex)
    assert (kind, key) == (paper.kind, paper.key)
    assert NEEDED[kind] <= set(fields)
    assert fields["year"] == str(paper.year)
    assert all(value.count("{") == value.count("}") for value in fields.values())
    assert all(re.fullmatch(r"[^,]+, [^,]+", name) for name in fields["author"].split(" and "))
    assert re.match(r"[a-z]+", key)[0] == re.sub(r"\W", "", paper.authors.partition(",")[0]).lower()
    assert str(paper.year) in key


@for_each([p for p in BIBLIOGRAPHY.values() if p.arxiv], lambda p: p.key)
def test_numbers_of_arxiv_are_possible(paper):
    year, month = re.fullmatch(r"(\d\d)(\d\d)\.\d{4,5}", paper.arxiv).groups()
    assert paper.year - 3 <= 2000 + int(year) <= paper.year
    assert 1 <= int(month) <= 12


@pytest.mark.parametrize("line", (HERE / "owed.txt").read_text().splitlines(), ids=lambda line: line.split(" | ")[0])
def test_printed_citations_are_those_recorded(line, capsys):
    """Of every method, mode and recipe, the text as it was when the papers were still written in Python."""
    word, comment, keys = line.split(" | ")
    recorded = {re.match(r"@\w+\{(\w+)", text)[1]: text for text in RECORDED.split("\n\n")}
    cite([word])
    assert capsys.readouterr().out == "\n\n".join([comment, *(recorded[key] for key in keys.split())]) + "\n"


def test_every_entry_is_printed_as_recorded():
    assert "\n\n".join(paper.bibtex for paper in BIBLIOGRAPHY.values()) == RECORDED


def test_a_macro_is_the_short_venue():
    text = "% of\n@string{V = {A {Venue}}}\n@misc{a1,\n  title = {T = {x}, y},\n  booktitle = V,\n year={1999}}"
    (paper,) = entries(text)
    assert (paper.kind, paper.key, paper.venue, paper.year) == ("misc", "a1", "V", 1999)
    assert paper.fields["title"] == "T = {x}, y"
    assert "booktitle = {A {Venue}}" in paper.bibtex


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@misc{a, title = {T}", "not closed"),
        ("@misc{a, title = {T}, title = {U}}", "has the field title twice"),
        ("@misc{a, title = {T}, booktitle = V}", "'V' is not a macro"),
        ("@misc{a, title = {T} {U}}", "'{U}' is not a field"),
        ("@misc{a, title = {T}}\n@misc{a, title = {U}}", "two entries have the key a"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        entries(text)


def test_no_title_or_number_appears_twice():
    for field in ("title", "arxiv"):
        values = [getattr(paper, field) for paper in BIBLIOGRAPHY.values() if getattr(paper, field)]
        assert len(set(values)) == len(values)


def test_bibtex_on_the_pages_agrees_with_the_bibliography():
    """Of each paper that a page has BibTeX for: key, title, year, number and authors."""
    found = [entry for page in PAGES.glob("*.md") for entry in parsed(page.read_text())]
    assert found
    for _, key, fields in found:
        paper = BIBLIOGRAPHY[key]
        assert fields["title"].replace("{", "").replace("}", "") == paper.heading
        assert (fields["year"], fields.get("eprint", "")) == (str(paper.year), paper.arxiv)
        assert words(fields["author"]) == words(paper.authors)


def words(names: str) -> set[str]:
    return set(re.findall(r"[\w-]+", names))


@pytest.mark.parametrize("name", [*RECIPES, *MODES, "autolora"])
def test_every_recipe_and_mode_has_a_row(name):
    """A new method says where it is from and how it differs from the authors' code."""
    credit = METHODS[name]
    assert set(credit.papers) <= set(BIBLIOGRAPHY)
    assert 20 < len(credit.differs) < 240
    assert credit.differs.endswith(".")


@pytest.mark.parametrize("base", [Method, Optimizer], ids=["methods", "optimisers"])
def test_every_kind_of_part_says_what_it_is_from(base):
    assert {kind.__name__ for kind in final(base)} <= set(OF_TYPE)


def test_every_type_is_a_class():
    """A class that is renamed keeps its papers."""
    source = "\n".join(file.read_text() for file in SOURCE.rglob("*.py"))
    assert [name for name in OF_TYPE if not re.search(rf"^class {name}\b", source, re.MULTILINE)] == []


def test_every_key_exists():
    keys = {key for keys in (*OF_TYPE.values(), *OF_DATA.values()) for key in keys} | set(OF_NETWORK.values())
    keys |= {key for credit in METHODS.values() for key in credit.papers}
    assert keys | {"wightman2019timm", *CLUSTERS, *GHOST_BATCH} == set(BIBLIOGRAPHY)
    assert set(DATASETS) <= set(OF_DATA)


def test_values_of_a_recipe_have_papers_too():
    plain = replace(recipe("acl/digits"), holdout=10)
    found = [{paper.key for paper in cited({"recipe": to_json(each)})} for each in (
        plain, replace(plain, ghost_batch=8, keep=Best())
    )]  # fmt: skip
    assert found[1] - found[0] == {"hoffer2017longer", "rice2020overfitting"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_cites_its_own_papers(name):
    keys = {paper.key for paper in cited({"recipe": to_json(recipe(f"{name}/digits"))})}
    assert set(METHODS[name].papers) <= keys


def keys(record: dict) -> list[str]:
    return [paper.key for paper in cited(record)]


def test_autolora_cites_its_branch_and_its_rate():
    assert keys({"recipe": to_json(AutoFinetune()), "data": {"encoder": "0" * 32}}) == [
        "madry2018towards",
        "xu2024autolora",
        "hu2022lora",
        "croce2020reliable",
        "krizhevsky2009learning",
    ]


DIGITS = ["pedregosa2011scikit", "alpaydin1998digits"]


def test_what_acl_on_digits_uses_and_nothing_else():
    assert keys(to_json(recipe("acl/digits"))) == [
        "jiang2020robust",
        "chen2020simple",
        "xie2020adversarial",
        "madry2018towards",
        "he2016deep",
        "you2017large",
        *DIGITS,
    ]


def test_only_used_components_are_cited():
    assert keys(to_json(recipe("simclr/digits"))) == ["chen2020simple", "he2016deep", "you2017large", *DIGITS]
    assert keys(to_json(recipe("st/cifar10"))) == ["he2016deep", "krizhevsky2009learning"]
    assert "robinson2021contrastive" in keys(to_json(recipe("a-infonce/cifar10")))
    plain_ip = replace(recipe("a-infonce/cifar10"), method=replace(recipe("a-infonce/cifar10").method, hn=None))
    assert "robinson2021contrastive" not in keys(to_json(plain_ip))
    still = replace(recipe("dynacl-plain/digits"), strength=Constant(1.0), method=recipe("acl/digits").method)
    assert "luo2023dynacl" in keys(to_json(recipe("dynacl-plain/digits")))
    assert "luo2023dynacl" not in keys(to_json(still))


def test_a_replaced_component_changes_the_citations():
    changed = replace(recipe("acl/stl10"), optimizer=AdamW())
    found = keys(to_json(changed))
    assert "loshchilov2019decoupled" in found
    assert "you2017large" not in found
    assert "coates2011analysis" in found


def test_papers_of_all_stages_are_cited():
    """As in the header of a classifier: fine-tuning, pre-training, and the teacher of that."""
    student = recipe("deacl/digits")
    record = {
        "finetune": {"recipe": to_json(Finetune(AFF(), data=student.data)), "data": {"encoder": "0" * 32}},
        "pretrain": {"recipe": to_json(student), "teacher": {"recipe": to_json(recipe("simclr/digits"))}},
        "kind": "classifier",
    }
    found = keys(record)
    assert found == [
        "zhang2022deacl",
        "chen2020simple",
        "madry2018towards",
        "zhang2019theoretically",
        "he2016deep",
        "you2017large",
        *DIGITS,
    ]
    assert keys(dict(reversed(record.items()))) == found  # whatever the order in the file
    assert keys(json.loads(json.dumps(record))) == found


def test_the_name_of_the_teacher_or_start_is_enough():
    """recipe.json has no more of it than that, and a run that starts from another not even in the end."""
    assert "chen2020simple" in keys({"recipe": {"type": "Pretrain", "name": "deacl", "teacher": "simclr/digits"}})
    started = {"recipe": {"type": "Pretrain", "start": "runs/x"}, "data": {"start": {"name": "rocl", "digest": "0"}}}
    assert keys(started) == ["kim2020rocl"]
    assert keys({"recipe": {"teacher": None, "start": "teacher"}}) == []


def test_clusters_are_k_means():
    kmeans = {"arthur2007kmeans", "pedregosa2011scikit"}
    assert kmeans <= set(keys(to_json(recipe("dynacl++/cifar10"))))
    assert kmeans <= set(keys(to_json(recipe("advcl/cifar10"))))
    assert not kmeans & set(keys(to_json(recipe("acl/cifar10"))))


def test_imported_encoders_are_cited():
    origin = {"recipe": {"type": "Imported", "name": "dynacl", "data": {"type": "DataSource", "name": "cifar100"}}}
    record = {
        "pretrain": origin,
        "finetune": {"recipe": {"type": "Imported", "name": "dynacl", "method": {"type": "aff"}}},
        "backbone": {"type": "Backbone", "name": "wrn-28-10"},
        "routes": ["clean", "adv"],
    }
    assert keys(record) == [
        "jiang2020robust",
        "luo2023dynacl",
        "xie2020adversarial",
        "zhang2019theoretically",
        "zagoruyko2016wide",
        "krizhevsky2009learning",
    ]


def test_images_by_the_name_of_their_folder():
    """As recipes take them; a folder called digits is not scikit-learn's."""
    for name, known in (("copies/CIFAR100", True), ("./digits", False), ("photos", False), ("digits", True)):
        assert bool(keys({"data": {"type": "DataSource", "name": name}})) == known


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", {"he2016deep"}),
        ("resnet-small", {"he2016deep"}),
        ("wrn-34-10", {"zagoruyko2016wide"}),
        ("vit-small", {"dosovitskiy2021image", "wightman2019timm"}),
        ("timm/resnet18.a1_in1k", {"he2016deep", "wightman2019timm"}),
        ("timm/vit_base_patch16_224", {"dosovitskiy2021image", "wightman2019timm"}),
        ("timm/wide_resnet50_2", {"zagoruyko2016wide", "wightman2019timm"}),
        ("timm/convnext_tiny", {"wightman2019timm"}),
    ],
)
def test_networks_by_name(name, expected):
    assert set(of_network(name)) == expected
    assert expected <= set(BIBLIOGRAPHY)


def test_messages_of_import_are_not_taken_for_routes():
    said = {"said": {"routes": "none: one batch norm for all images"}, "routes": []}
    assert cited(said) == []
    assert [paper.key for paper in cited({"routes": ["clean", "adv"]})] == ["xie2020adversarial"]


def test_attacks_and_corruptions_of_an_evaluation_are_cited():
    def keys(**asked) -> set[str]:
        return {paper.key for paper in cited({"evaluation": to_json(Evaluation(**asked))})}

    assert keys() == {"madry2018towards"}
    assert keys(corruptions=("fog",)) - keys() == {"hendrycks2019benchmarking"}
    attacks = {"croce2020reliable", "croce2020minimally", "andriushchenko2020square"}
    assert keys(autoattack="standard") - keys() == attacks
