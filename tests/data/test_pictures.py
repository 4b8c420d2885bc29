"""Pictures of every kind: converted as documented, never saturated or sideways; refused by path."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from easydl.data.pictures import Transforms, check_all, files_in, picture_list
from easydl.vision import read_picture


@pytest.fixture(scope="module")
def colours():
    """A picture whose corners tell where up is: (12, 8) with red above left, blue below right."""
    x = np.full((12, 8, 3), 100, np.uint8)
    x[:4, :4], x[-4:, -4:] = (250, 10, 20), (5, 15, 245)
    return x


def near(picture, expected, by):
    return np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= by


# -- the difficult files of bad-input.md -----------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["empty", "truncated jpeg", "truncated png", "text", "folder", "none"]
)
def test_files_that_are_no_pictures_are_refused_by_their_path(kind, tmp_path, colours):
    path = tmp_path / "cat.jpg"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no picture at all")
    elif kind.startswith("truncated"):
        whole = tmp_path / f"whole.{kind.split()[1]}"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
            whole
        )
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif kind == "folder":
        path.mkdir()
    error = FileNotFoundError if kind in ("folder", "none") else ValueError
    with pytest.raises(error, match=r"cat\.jpg") as caught:
        read_picture(path)
    assert len(str(caught.value)) <= 600 and "expected" in str(caught.value).lower()
    if kind not in ("folder", "none"):
        (found,) = check_all([path])
        assert found[0] == path and found[1]


def test_cmyk_keeps_its_colours(tmp_path, colours):
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.mode == "RGB" and picture.size == (8, 12)
    assert near(np.asarray(picture)[1, 1], (250, 10, 20), 25)
    assert near(np.asarray(picture)[-2, -2], (5, 15, 245), 25)


def test_grey_is_as_bright_in_every_channel(tmp_path):
    grey = np.arange(96, dtype=np.uint8).reshape(12, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparent_pixels_lie_on_white(kind, tmp_path, colours):
    alpha = np.full((12, 8, 1), 255, np.uint8)
    alpha[5] = 0
    picture = Image.fromarray(np.concatenate([colours, alpha], -1), "RGBA")
    if kind == "LA":
        picture = picture.convert("LA")
    elif kind == "palette":
        green = colours.copy()
        green[5] = (0, 200, 0)
        picture = Image.fromarray(green).convert("P", palette=Image.Palette.ADAPTIVE)
        picture.info["transparency"] = picture.getpixel((0, 5))
    picture.save(tmp_path / "a.png", **picture.info)
    found = np.asarray(read_picture(tmp_path / "a.png"))
    assert (found[5] == 255).all() and not (found[4] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_and_not_cut_off(suffix, tmp_path):
    deep = np.linspace(0, 65535, 96).astype(np.uint16).reshape(12, 8)
    if suffix == "pgm":
        header = b"P5 8 12 65535\n"
        (tmp_path / "a.pgm").write_bytes(header + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    found = np.asarray(read_picture(tmp_path / f"a.{suffix}"))
    assert near(found[..., 0], deep / 257, 1)
    assert len(np.unique(found)) > 90


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_photograph_stands_upright(turn, tmp_path, colours):
    undo = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1], 5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1), 7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(undo[turn](colours)))
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), colours)
    assert np.array_equal(read_picture(Image.open(tmp_path / "a.png")), colours)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_taken(suffix, tmp_path, colours):
    frames = [Image.fromarray(colours), Image.fromarray(255 - colours)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert near(read_picture(tmp_path / f"a.{suffix}"), colours, 3)


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / "a.png")
    x = Transforms(8, resize=10)(tmp_path / "a.png")
    assert x.shape == (3, 8, 8)
    assert near(x[:, 4, 4] * 255, (200, 100, 50), 1)


def test_black_and_white_and_float_pictures(tmp_path):
    bits = np.eye(8, dtype=bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png"))[..., 0], bits * 255)
    floats = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(floats).save(tmp_path / "a.tiff")
    assert near(np.asarray(read_picture(tmp_path / "a.tiff"))[..., 0], floats * 255, 1)
    Image.fromarray(floats * 7).save(tmp_path / "b.tiff")
    with pytest.raises(ValueError, match=r"b\.tiff.*0 … 7"):
        read_picture(tmp_path / "b.tiff")


# -- arrays ----------------------------------------------------------------------------------------


def test_arrays_of_every_layout_are_the_same_picture(colours):
    for given in (
        colours, colours.transpose(2, 0, 1), torch.tensor(colours), colours / 255.0,
        torch.tensor(colours / 255.0).permute(2, 0, 1).float(),
        (colours.astype(np.uint16) * 257), np.asfortranarray(colours), colours[:, ::1],
    ):  # fmt: skip
        assert np.array_equal(read_picture(given), colours)
    grey = colours[..., 0]
    assert read_picture(np.zeros((4, 5, 3), np.uint8)).size == (5, 4)
    assert read_picture(np.zeros((3, 5, 4), np.uint8)).size == (4, 5)
    for given in (grey, grey[None], grey[..., None], grey / 255.0):
        assert np.array_equal(np.asarray(read_picture(given))[..., 2], grey)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((3, 5, 3), np.uint8), "may be two of them"),
        (np.zeros((5, 6, 2), np.uint8), r"\(5, 6, 2\)"),
        (np.zeros((2, 5, 6, 3), np.uint8), r"\(2, 5, 6, 3\)"),
        (np.zeros((0, 6), np.uint8), r"\(0, 6\)"),
        (np.full((5, 6), 1.5), r"1\.5 … 1\.5; expected 0 … 1"),
        (np.full((5, 6), np.nan), "nan"),
        (np.zeros((5, 6), np.int64), "int64.*astype"),
        (np.array(["a"]), r"\(1,\)"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        read_picture(array)


# -- lists and folders -----------------------------------------------------------------------------


def test_folders_are_read_in_order_of_names_without_hidden_and_other_files(tmp_path):
    for name in ("b.png", "a.PNG", "sub/c.png", ".hidden.png", ".git/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name, "PNG")
    assert [str(p.relative_to(tmp_path)) for p in files_in(tmp_path)] == [
        "a.PNG",
        "b.png",
        "sub/c.png",
    ]
    assert len(picture_list(tmp_path)) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty.*holds no picture"):
        picture_list(tmp_path / "empty")


def test_a_link_back_is_not_followed_and_one_to_nothing_is_named(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert files_in(tmp_path) == [tmp_path / "a.png"]
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    assert check_all(files_in(tmp_path)) == [(tmp_path / "b.png", "a link to no file")]


def test_columns_and_arrays_of_paths_are_lists_of_paths(tmp_path):
    pandas = pytest.importorskip("pandas")
    names = ["b.png", "a.png"]
    for given in (np.array(names), np.array(names, object), pandas.Series(names, index=[7, 3])):
        assert picture_list(given) == names
    assert picture_list(np.array([1, 2], object)) is None


# -- transforms ------------------------------------------------------------------------------------


def test_sizes_and_means_may_be_numpys():
    given = Transforms(np.int64(8), np.int64(9), np.full(3, 0.5), torch.full((3,), 0.25))
    assert given == Transforms(8, 9, [0.5] * 3, [0.25] * 3)
    assert given != Transforms(8, 9, [0.5] * 3, [0.2] * 3)
    assert given.resized((16, 8)) == Transforms((16, 8), 18, [0.5] * 3, [0.25] * 3)


def test_transforms_cover_scale_and_cut_the_middle(colours):
    x = Transforms((6, 8), channels=1)(colours)
    assert x.shape == (1, 6, 8) and 0 <= x.min() <= x.max() <= 1
    wide = Transforms(4)(np.repeat(np.arange(40, dtype=np.uint8)[None] * 6, 4, 0))
    assert near(wide[0, 0] * 255, np.arange(18, 22) * 6, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = Transforms(12, 12, [0.5] * 3, [0.25] * 3)
        ready = back(Image.fromarray(colours).resize((12, 12)))
        assert near(back.to_picture(ready), Image.fromarray(colours).resize((12, 12)), 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 0}, "size=0"),
        ({"size": (3, 4, 5)}, "height, width"),
        ({"size": 8, "resize": 4}, "border would be black"),
        ({"size": 8.0}, "size=8.0"),
        ({"size": "88"}, "size='88'"),
        ({"size": None}, "size=None"),
        ({"size": 8, "mean": 0.5, "std": 0.5}, "mean=0.5"),
        ({"size": (8, 16), "resize": 12}, "border would be black"),
        ({"size": 8, "channels": 2}, "channels=2"),
        ({"size": 8, "mean": [0.5]}, "mean="),
        ({"size": 8, "mean": [0.5] * 3}, "expected both"),
        ({"size": 8, "mean": [0.5] * 3, "std": [0.0] * 3}, "above 0"),
        ({"size": 8, "interpolation": "bicubik"}, "Did you mean 'bicubic'"),
    ],
)
def test_wrong_transforms_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transforms(**arguments)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    import zlib

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99))
    )
    (tmp_path / "bomb.png").write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"bomb\.png.*Bomb"):
        read_picture(tmp_path / "bomb.png")
