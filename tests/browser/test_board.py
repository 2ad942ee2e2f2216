"""The board in a browser: sorting, filters, permalinks, dropped files, dark, phone, keyboard, accessibility, speed."""

import csv
import functools
import http.server
import io
import itertools
import json
import os
import threading
from pathlib import Path

import numpy
import pytest
from made import TAMPERED, resealed, result, tampered

from unshaken.base.json_files import with_checksum
from unshaken.board.build import folder
from unshaken.board.check import fault
from unshaken.board.collect import receipts
from unshaken.board.paired import pair
from unshaken.board.reported import published
from unshaken.board.rows import rows_of
from unshaken.board.site import write

ROOT = Path(__file__).parents[2]
CIFAR = "task=cifar-10-cifar-10-linf-8-255-resnet-18"
DROP = """([name, text]) => {
  const held = new DataTransfer();
  held.items.add(new File([text], name, { type: "application/json" }));
  document.body.dispatchEvent(new DragEvent("dragenter", { dataTransfer: held, bubbles: true }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
}"""


def address(site, hash_=""):
    return f"{(site / 'index.html').as_uri()}{'#' + hash_ if hash_ else ''}"


def methods(page):
    return page.locator("#table tbody tr.row .name a").all_inner_texts()


def column(page, place):
    cells = page.locator(f"#table tbody tr.measured td:nth-of-type({place}) b")
    return [float(text) for text in cells.all_inner_texts()]


def test_it_opens_from_a_disk_and_from_a_server(site, opened):
    assert len(methods(opened(address(site)))) >= 32
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = opened(f"http://127.0.0.1:{server.server_port}/index.html")
        assert len(methods(page)) >= 32
        page.click("#table tbody .name a >> nth=0")
        page.wait_for_selector("dialog[open] pre")
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_sorting(site, opened):
    page = opened(address(site, "mode=slf"))
    ra = page.locator('button[data-sort="slf.RA"]')
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("RA")
    ranks = [int(text) for text in page.locator(".place").all_inner_texts()]
    assert ranks == sorted(ranks)
    page.click('button[data-sort="slf.SA"]')
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("SA")
    page.click('button[data-sort="method"]')
    names = methods(page)
    assert names[0] == "a-infonce"
    assert names[-1] == "trades"
    assert sum(a != b for a, b in itertools.pairwise(names)) == len(set(names)) - 1
    ra.click()
    ra.click()
    assert page.locator('th[aria-sort="ascending"]').inner_text().startswith("RA")
    assert [int(text) for text in page.locator(".place").all_inner_texts()] == ranks[::-1]


def test_filters_and_search(site, opened):
    page = opened(address(site))
    before = len(methods(page))
    page.click("#filters summary")
    page.select_option("#labels", "in pre-training")
    assert set(methods(page)) == {"st", "sat", "trades"}
    assert page.locator("#filter-count").inner_text() == "1"
    page.select_option("#labels", "")
    page.fill("#cost", "0.5")
    assert 0 < len(methods(page)) < before
    page.click("#reset")
    assert len(methods(page)) == before
    page.fill("#search", "dynacl-air")
    assert set(methods(page)) == {"dynacl-air", "dynacl-air++"}
    page.fill("#search", "nothing of the kind")
    assert methods(page) == []
    assert "No row fits" in page.locator("#said").inner_text()


def test_a_permalink_is_the_view(site, opened):
    page = opened(address(site))
    page.click('[data-mode="alf"]')
    page.click('button[data-sort="alf.SA"]')
    page.fill("#search", "acl")
    other = opened(page.url)
    assert methods(other) == methods(page)
    assert other.locator("#search").input_value() == "acl"
    assert other.locator('[data-mode="alf"]').get_attribute("aria-pressed") == "true"
    page.click("#table tbody .name a >> nth=1")
    page.wait_for_selector("dialog[open]")
    third = opened(page.url)
    assert third.locator("#detail-title").inner_text() == page.locator("#detail-title").inner_text()
    page.go_back()
    page.wait_for_selector("dialog[open]", state="hidden")


def test_a_row_opens_its_receipt(site, opened):
    page = opened(address(site))
    page.fill("#search", "advcl")
    page.click("#table tbody .name a")
    page.wait_for_selector("dialog[open] details")
    text = page.locator("dialog").inner_text()
    assert "unshaken pretrain advcl/digits --seed $S" in text
    assert "advcl-slf-seed1.json" in text
    facts = page.locator("dialog .facts-grid div").all_inner_texts()
    assert [fact.splitlines()[0] for fact in facts][:4] == [
        "pre-training",
        "device",
        "operations, counted",
        "peak memory",
    ]
    assert facts[3].endswith("not recorded")
    assert "The folders of these runs were not given to the board." in text
    page.click("dialog summary:has-text('BibTeX')")
    assert "When Does Contrastive Learning Preserve" in page.locator("dialog").inner_text()
    link = page.locator("dialog a[href^='results/']").first.get_attribute("href")
    assert (site / link).exists()
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="hidden")
    assert "row=" not in page.url


def test_a_row_links_to_the_files_of_its_runs(opened, tmp_path):
    run = tmp_path / "runs" / "acl-digits-1" / "slf-digits-1"
    run.mkdir(parents=True)
    for place in (run.parent, run):
        (place / "recipe.json").write_text("{}")
        lines = [json.dumps({"step": k, "epoch": k, "loss": 1 / (k + 1)}) for k in range(5)]
        (place / "log.jsonl").write_text("\n".join(lines))
    told = resealed(result() | {"date": "2026-03-04", "cost": {"memory_gb": 1.25}})
    (run / "result.json").write_text(json.dumps(told))
    write(tmp_path / "site", receipts([run]), published(), count=lambda row: 0.00689)
    page = opened(address(tmp_path / "site"))
    page.click("#table tbody .name a >> nth=0")
    page.wait_for_selector("dialog[open] .files a")
    assert page.locator("dialog .files a").all_inner_texts() == [
        f"{part}: {name}" for part in ("pre-training", "fine-tuning") for name in ("curve", "log", "recipe")
    ]
    facts = dict(each.split("\n", 1) for each in page.locator("dialog .facts-grid div").all_inner_texts())
    told = ("operations, counted", "peak memory", "date")
    assert [facts[name] for name in told] == ["6.89 TFLOP", "1.25 GB", "2026-03-04"]
    for link in page.locator("dialog .files a").all():
        assert (tmp_path / "site" / link.get_attribute("href")).exists()


def test_paired_tests_are_those_of_python(site, opened):
    page = opened(address(site))
    rows = {row.method: row for row in rows_of(receipts([ROOT / "results"])) if "results/digits" in folder(row)}
    task = rows["acl"].task.key
    bits = page.evaluate("async (task) => { await Board.load('bits', task); return Board.data.rows; }", task)
    ids = {
        row["method"]: row["id"]
        for row in bits
        if row.get("folder") == "results/digits" or "results/digits" in row.get("folder", "")
    }
    for a, b in (("acl", "simclr"), ("acl", "dynacl"), ("trades", "sat"), ("rocl", "acl-air")):
        expected = pair(rows[a].verdicts("slf", "RA"), rows[b].verdicts("slf", "RA"))
        found = page.evaluate(
            """async ([task, a, b]) => { const bits = await Board.load('bits', task);
            return Board.pair(Board.verdicts(bits[a].slf.RA), Board.verdicts(bits[b].slf.RA)); }""",
            [task, ids[a], ids[b]],
        )
        assert (found["more"], found["less"]) == (expected.a_better, expected.b_better)
        assert found["images"] == pytest.approx(expected.images, rel=1e-6)
        assert found["seeds"] == pytest.approx(expected.seeds, rel=1e-6)
        assert found["apart"] == expected.told_apart


@pytest.fixture(scope="module")
def reader(browser, site):
    page = browser.new_page()
    page.goto(address(site))
    yield lambda text: page.evaluate(
        "(text) => { try { Board.read(text); return null; } catch (e) { return e.message; } }", text
    )
    page.close()


@pytest.mark.parametrize("name", TAMPERED)
def test_the_page_refuses_what_python_refuses(reader, name):
    found, said = tampered(name)
    message = reader(json.dumps(found))
    assert message is not None
    assert said in message
    if name != "a part of another kind":  # where the words are Python's own
        assert message == fault(found)


def test_the_page_believes_what_python_believes(reader):
    for file in sorted((ROOT / "results").rglob("*.json")):
        assert reader(file.read_text()) is None, file
    for found in (result(), result(autoattack=True), result("dynacl", eps=8 / 255), result("ä'\"\\\n😀", eps=1e-6)):
        assert reader(json.dumps(found)) is None
        assert reader(json.dumps(found, ensure_ascii=False, indent=2)) is None


def test_dropped_files(site, opened):
    page = opened(address(site))
    good = (ROOT / "results/digits/acl-slf-seed1.json").read_text()
    page.evaluate(DROP, ["good.json", good])
    page.wait_for_selector("#dropped .finding table tbody tr")
    said = page.locator("#dropped").inner_text()
    assert "counts are those of the bits" in said
    assert "yours is better" in said
    assert "no difference shown" in said
    page.evaluate(DROP, ["bad.json", good.replace('"correct": 368', '"correct": 369')])
    page.wait_for_selector("#dropped .bad")
    assert (
        page.locator("#dropped").inner_text()
        == "bad.json is refused. robust: it counts 369 right answers, and its bits 368"
    )
    other_seed = json.loads(good)
    other_seed["seeds"]["pretrain"] = other_seed["pretrain"]["recipe"]["seed"] = 7
    page.evaluate(DROP, ["seed.json", json.dumps(other_seed)])
    page.wait_for_selector("#dropped:has-text('seed.json is refused. checksum: it is not that of the file')")
    other_seed.pop("checksum")
    page.evaluate(DROP, ["seed.json", json.dumps(with_checksum(other_seed))])
    page.wait_for_selector("#dropped:has-text('are on the board')")
    assert "are on the board as acl (slf) with seeds 1/1/1" in page.locator("#dropped").inner_text()
    for name, text in (("foreign.json", '{"accuracy": 0.99}'), ("photo.jpg", "\u00ff\u00d8\u00ff"), ("empty", "")):
        page.evaluate(DROP, [name, text])
        page.wait_for_selector(f"#dropped .bad:has-text('{name} is refused')")
        assert len(page.locator("#dropped").inner_text().splitlines()) == 1
    page.evaluate(DROP, ["elsewhere.json", json.dumps(result())])
    page.wait_for_selector("#dropped:has-text('nothing to test it against')")


def test_a_dropped_file_cannot_write_into_the_page(site, opened):
    page = opened(address(site))
    evil = result()
    evil["method"] = "<img src=x onerror=alert(1)>"
    evil["data"]["digest"] = "8874fd9f2c613e848c6185cd718a00cd"
    page.evaluate(DROP, ["evil.json", json.dumps(resealed(evil))])
    page.wait_for_selector("#dropped .finding")
    assert page.locator("main img[src='x']").count() == 0


def test_reported_rows_say_what_they_are(site, opened):
    page = opened(address(site, CIFAR))
    assert "Reported elsewhere" in page.locator("tr.band").inner_text()
    assert page.locator(".place").count() == 0
    assert page.locator("td:has-text('missing')").count() > 0
    page.click("text=DynACL-AIR++ >> nth=0")
    assert "RobustSSL leaderboard" in page.locator("dialog").inner_text()


def test_dark_and_light(site, opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(address(site), color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(ground) != dark.evaluate(ground)
    wanted = dark.evaluate(ground)
    light.click("#theme")
    assert light.evaluate(ground) == wanted
    light.reload()
    assert light.evaluate(ground) == wanted


@pytest.mark.parametrize("page_name", ["index.html", "about.html", "corrections.html", "plain.html"])
def test_a_phone_of_360_pixels(site, opened, page_name):
    page = opened((site / page_name).as_uri(), viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if page_name == "index.html":
        assert page.evaluate("document.querySelector('.scroller').scrollWidth") <= 360
        page.click("#table tbody .name a >> nth=0")
        page.wait_for_selector("dialog[open] pre")
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 360


def test_the_keyboard_is_enough(site, opened):
    page = opened(address(site))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("rocl")
    assert set(methods(page)) == {"rocl", "a-infonce-rocl"}
    page.focus("button[data-sort='slf.SA']")
    page.keyboard.press("Enter")
    assert "sort=slf.SA" in page.url
    assert page.evaluate("document.activeElement.dataset.sort") == "slf.SA"
    page.focus("#table tbody .name a")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="hidden")
    page.focus("#filters summary")
    page.keyboard.press("Enter")
    assert page.locator("#filters .sheet").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#filters .sheet").is_visible()


def test_what_is_shown_can_be_taken_away(site, opened):
    page = opened(address(site, "mode=slf&q=trades"))
    page.click("summary:has-text('Export')")
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert {(row["method"], row["mode"]) for row in rows} == {("trades", "slf")}
    by_metric = {row["metric"]: row for row in rows}
    assert float(by_metric["RA"]["mean"]) == pytest.approx(87.57, abs=0.01)
    assert by_metric["RA"]["n"] == "445"
    with page.expect_download() as download:
        page.click("#json")
    assert len(json.loads(Path(download.value.path()).read_text())) == len(rows)


def axe_source():
    places = [os.environ.get("UNSHAKEN_AXE", ""), ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"]
    return next((Path(place) for place in places if place and Path(place).exists()), None)


@pytest.mark.skipif(axe_source() is None, reason="axe-core is not there: npm install --prefix .venv/axe axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["", "mode=slf", CIFAR, "row", "about.html", "corrections.html", "plain.html"])
def test_axe_finds_nothing_serious(site, opened, view, scheme):
    page = opened(
        (site / view).as_uri() if view.endswith(".html") else address(site, "" if view == "row" else view),
        color_scheme=scheme,
    )
    if view == "row":
        page.click("#table tbody .name a >> nth=1")
        page.wait_for_selector("dialog[open] details")
    page.evaluate(axe_source().read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'], preload: false })")["violations"]
    serious = [
        (v["id"], v["help"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary"))
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_two_thousand_rows(opened, tmp_path):
    """First paint under a second, and sorting under a tenth of one."""
    stream = numpy.random.default_rng(1)
    found = []
    for k in range(2000):
        each = result(f"method-{k}", "slf", 1, 0.3 + 0.5 * float(stream.random()))
        found.append(each)
    folder = tmp_path / "results"
    folder.mkdir()
    for k, each in enumerate(found):
        (folder / f"{k}.json").write_text(json.dumps(each))
    write(tmp_path / "site", receipts([folder]), published())
    page = opened(address(tmp_path / "site"))
    page.wait_for_selector("#table tbody tr")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    times = page.evaluate(
        """() => [0, 1, 2, 3, 4].map((k) => { const begun = performance.now();
        document.querySelector(k % 2 ? "[data-sort='slf.SA']" : "[data-sort='slf.RA']").click();
        document.body.offsetHeight; return performance.now() - begun; })"""
    )
    print(f"first paint {paint:.0f} ms, sorting {sorted(times)[2]:.0f} ms")
    assert "2000 rows" in page.locator("#said").inner_text()
    assert paint < 1000
    assert sorted(times)[2] < 100
    page.evaluate("document.querySelector('#more').scrollIntoView()")
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length > 100")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#table tbody tr.row").count() == 2000
