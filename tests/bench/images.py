"""The picture engine beside sharp, pyvips and Pillow: how fast, how large, how true. `make bench-images` runs this.

Every engine is a child process with one thread; they take turns picture by picture, and each measures its own CPU time
around a job, so that the machine's load is the same for all. Medians are compared, ours / theirs.

usage: images.py FOLDER ENGINE       FOLDER holds sharp and gets the pictures; ENGINE is our own child process
       images.py --peer pyvips       a child process
environment: ROUNDS (5)
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys

os.environ["VIPS_CONCURRENCY"] = "1"

# In, out, format; the most time and bytes beside sharp that are allowed, resampling sRGB levels on both sides.
CASES = [
    (2048, 1024, "png", 0.35, 0.65),
    (1024, 1024, "png", 0.20, None),
    (1024, 2048, "png", 0.15, 0.60),
    (2048, 1024, "jpeg", 0.50, 1.01),
    (1024, 2048, "jpeg", 0.35, 1.01),
    (2048, 1024, "webp", 0.75, 1.05),
]
# The most time beside sharp where both resample in linear light.
LINEAR = 0.5
HERE = pathlib.Path(__file__).parent


# --- the engines of Python --------------------------------------------------------------------------------------------


def pyvips_engine():
    import pyvips

    pyvips.cache_set_max(0)

    def render(original, width, height, form, light):
        image = pyvips.Image.new_from_buffer(original, "", access="sequential")
        if (image.width, image.height) != (width, height):
            if light == "linear":
                image = image.colourspace("scrgb")
            alpha = image.hasalpha()
            if alpha:
                image = image.premultiply()
            image = image.resize(width / image.width, vscale=height / image.height, kernel="lanczos3")
            if alpha:
                image = image.unpremultiply()
            if light == "linear":
                image = image.colourspace("srgb")
            image = image.cast("uchar") if image.format != "uchar" else image
        return {
            "png": lambda: image.pngsave_buffer(compression=6),
            "jpeg": lambda: image.jpegsave_buffer(Q=90, optimize_coding=True),
            "webp": lambda: image.webpsave_buffer(Q=85),
        }[form]()

    return render


def pillow_engine():
    import io

    from PIL import Image

    # It knows no linear light.
    def render(original, width, height, form, _light):
        image = Image.open(io.BytesIO(original))
        image.load()
        if image.size != (width, height):
            image = image.resize((width, height), Image.LANCZOS)
        out = io.BytesIO()
        options = {"png": {}, "jpeg": {"quality": 90}, "webp": {"quality": 85}}[form]
        image.save(out, form.upper(), **options)
        return out.getvalue()

    return render


def peer(name):
    render = {"pyvips": pyvips_engine, "pillow": pillow_engine}[name]()

    def cpu():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return (usage.ru_utime + usage.ru_stime) * 1000

    for line in sys.stdin:
        job = json.loads(line)
        original = pathlib.Path(job["source"]).read_bytes()
        before = cpu()
        file = render(original, job["width"], job["height"], job["format"], job["light"])
        ms = cpu() - before
        if job.get("out"):
            pathlib.Path(job["out"]).write_bytes(file)
        print(json.dumps({"ms": ms, "bytes": len(file)}), flush=True)


class Engine:
    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def render(self, source, width, height, form, light, out=None):
        job = dict(source=str(source), width=width, height=height, format=form, light=light, out=out and str(out), steps=True)
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"an engine broke down on {job}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# --- the pictures -----------------------------------------------------------------------------------------------------


def photographs():
    """The pictures that lie in the package of scikit-image; its code is not run."""
    import importlib.util

    folder = pathlib.Path(importlib.util.find_spec("skimage").submodule_search_locations[0]) / "data"
    names = """astronaut.png coffee.png chelsea.png rocket.jpg motorcycle_left.png ihc.png retina.jpg
        hubble_deep_field.jpg color.png camera.png brick.png moon.png page.png""".split()
    return [folder / name for name in names]


def make_large(folder):
    """Four pictures of each size, like photographs: noise at every scale, and grain until a PNG is as heavy as one."""
    import io

    import numpy as np
    from PIL import Image

    for side, heavy in [(1024, 1.55e6), (2048, 6.2e6)]:
        for number, path in enumerate(photographs()[:4]):
            out = folder / f"{side}-{number}.png"
            if out.exists():
                continue
            dice = np.random.default_rng(side + number)
            photo = Image.open(path).convert("RGB")
            edge = min(photo.size)
            photo = np.asarray(photo.crop((0, 0, edge, edge)).resize((side, side), Image.LANCZOS), np.float32)
            for cells in (8, 32, 128, 256):
                noise = dice.standard_normal((cells, cells)).astype(np.float32) * 30 / cells**0.6
                photo += np.asarray(Image.fromarray(noise).resize((side, side), Image.BICUBIC))[..., None]
            grain = dice.standard_normal((side, side, 3)).astype(np.float32) * 0.4
            grain += dice.standard_normal((side, side, 1)).astype(np.float32)
            low, high = 0.0, 12.0
            for _ in range(6):
                middle = (low + high) / 2
                levels = np.clip(photo + grain * middle, 0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(levels).save(file, "PNG")
                low, high = (low, middle) if file.tell() > heavy * (1 + 0.1 * number) else (middle, high)
            out.write_bytes(file.getvalue())


def make_varied(folder):
    """Photographs and graphics to judge by."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    made = {}
    for path in photographs():
        photo = Image.open(path).convert("RGB")
        made[path.stem] = photo.crop((0, 0, min(600, photo.width), min(600, photo.height)))
    x, y = np.meshgrid(np.arange(480), np.arange(400))

    lettering = Image.new("RGB", (480, 400), "white")
    draw = ImageDraw.Draw(lettering)
    for line in range(14):
        draw.text((8, 4 + line * 28), "Sphinx of black quartz, judge my vow", "black", ImageFont.load_default(8 + line))
    made["lettering"] = lettering

    lines = Image.new("RGB", (480, 400), "black")
    draw = ImageDraw.Draw(lines)
    for step in range(0, 480, 7):
        draw.line((step, 0, 480 - step, 400), (255, step // 2, 255 - step // 2))
    made["line art"] = lines

    gradient = np.stack([x * 255 / 479, y * 255 / 399, 255 - x * 255 / 479], -1)
    made["gradient"] = Image.fromarray(gradient.astype(np.uint8))

    zone = 127.5 + 127.5 * np.cos((x**2 + y**2) / 700)
    made["zone plate"] = Image.fromarray(np.repeat(zone[..., None], 3, -1).astype(np.uint8))

    dark = np.asarray(made["astronaut"].crop((0, 0, 480, 400)), np.float64) / 10
    made["dark scene"] = Image.fromarray(dark.astype(np.uint8))

    edges = Image.new("RGBA", (480, 400), (255, 0, 0, 0))
    draw = ImageDraw.Draw(edges)
    for step in range(12):
        draw.ellipse((step * 38, step * 30, step * 38 + 90, step * 30 + 80), (20 * step, 220, 255 - 20 * step, 255 - 18 * step))
    made["transparency"] = edges

    for name, image in made.items():
        # Some photographs carry a profile, which not every engine heeds.
        image.info.clear()
        image.save(folder / f"{name}.png")
    return list(made)


# --- how true ---------------------------------------------------------------------------------------------------------


def lanczos(inwards, outwards):
    """The weights of Lanczos3 as a matrix, in float64, as the textbook has it."""
    import numpy as np

    scale = inwards / outwards
    reach = max(scale, 1.0)
    centre = (np.arange(outwards)[:, None] + 0.5) * scale - 0.5
    distance = (np.arange(inwards)[None, :] - centre) / reach
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return weights / weights.sum(1, keepdims=True)


def to_light(level):
    import numpy as np

    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def to_level(light):
    import numpy as np

    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def reference(path, width, height, light):
    """What should come out, as levels that are not rounded, colours weighed by alpha."""
    import numpy as np
    from PIL import Image

    image = Image.open(path)
    levels = np.asarray(image, np.float64) / 255
    alpha = levels[..., 3:] if image.mode == "RGBA" else None
    colour = to_light(levels[..., :3]) if light == "linear" else levels[..., :3]
    across, down = lanczos(image.width, width), lanczos(image.height, height)
    mix = lambda plane: np.einsum("yh,hwc,xw->yxc", down, plane, across, optimize=True)
    if alpha is None:
        mixed = np.clip(mix(colour), 0, 1)
        return (to_level(mixed) if light == "linear" else mixed) * 255
    cover = np.clip(mix(alpha), 0, 1)
    mixed = np.clip(mix(colour * alpha) / np.maximum(cover, 1e-9), 0, 1)
    return np.concatenate([(to_level(mixed) if light == "linear" else mixed) * cover, cover], -1) * 255


def shown(path):
    import numpy as np
    from PIL import Image

    image = Image.open(path)
    if image.mode != "RGBA":
        return np.asarray(image.convert("RGB"), np.float64)
    levels = np.asarray(image, np.float64)
    return np.concatenate([levels[..., :3] * levels[..., 3:] / 255, levels[..., 3:]], -1)


def psnr(got, expected):
    import numpy as np

    return 10 * np.log10(255**2 / max(np.mean((got - expected) ** 2), 1e-12))


def ssim(got, expected):
    """Of Wang et al. 2004: a Gaussian of 1.5 pixels, mean over channels."""
    import numpy as np

    kernel = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    kernel /= kernel.sum()

    def blur(plane):
        for axis in (0, 1):
            count = plane.shape[axis] - 10
            plane = sum(k * np.take(plane, range(i, i + count), axis) for i, k in enumerate(kernel))
        return plane

    a, b = blur(got), blur(expected)
    aa, bb, ab = blur(got**2) - a * a, blur(expected**2) - b * b, blur(got * expected) - a * b
    return np.mean((2 * a * b + 6.5025) * (2 * ab + 58.5225) / ((a * a + b * b + 6.5025) * (aa + bb + 58.5225)))


# --- the measurement --------------------------------------------------------------------------------------------------


def speed(engines, folder, rounds, light, cases):
    rows = []
    for into, out, form, *limits in cases:
        times = {name: [] for name in engines}
        sizes = {name: {} for name in engines}
        steps = []
        for turn in range(rounds + 1):  # the first only warms up
            for number in range(4):
                for name, engine in engines.items():
                    answer = engine.render(folder / f"{into}-{number}.png", out, out, form, light)
                    sizes[name][number] = answer["bytes"]
                    if turn:
                        times[name].append(answer["ms"])
                        if "steps" in answer:
                            steps.append(answer["steps"])
        expected = reference(folder / f"{into}-0.png", out, out, light)
        row = {"in": into, "out": out, "format": form, "light": light, "limits": limits, "engines": {}}
        for name, engine in engines.items():
            file = folder / f"out-{name}.{form}"
            engine.render(folder / f"{into}-0.png", out, out, form, light, file)
            row["engines"][name] = {
                "ms": statistics.median(times[name]),
                "bytes": sum(sizes[name].values()) / 4,
                "psnr": psnr(shown(file), expected),
            }
        row["steps"] = [statistics.median(step) for step in zip(*steps)]
        rows.append(row)
        print_speed(row)
    return rows


def print_speed(row):
    ours, theirs = row["engines"]["platen"], row["engines"]["sharp"]
    time, size = ours["ms"] / theirs["ms"], ours["bytes"] / theirs["bytes"]
    most_time, most_size = row["limits"]
    row["reached"] = time <= most_time and (most_size is None or size <= most_size)
    print(f"\n{row['in']} → {row['out']} {row['format']}, {row['light']}: ", end="")
    print(f"{time:.3f} of sharp's time (≤ {most_time}), {size:.3f} of its bytes (≤ {most_size or '-'})", end="")
    print("" if row["reached"] else "   MISSED")
    decode, resample, encode = row["steps"]
    print(f"    ours, step by step: decoding {decode:.1f} ms, resampling {resample:.1f}, encoding {encode:.1f}")
    for name, figures in row["engines"].items():
        print(f"    {name:8}{figures['ms']:8.1f} ms{figures['bytes'] / 1e6:8.3f} MB{figures['psnr']:8.2f} dB", flush=True)


def quality(engines, folder):
    import numpy as np
    from PIL import Image

    print("\nAgainst Lanczos3 in float64, in linear light (Pillow knows only levels): PSNR in dB, SSIM")
    print(f"    {'':22}{'platen':>18}{'pyvips':>18}{'pillow':>18}")
    rows = []
    for name in make_varied(folder):
        path = folder / f"{name}.png"
        width, height = Image.open(path).size
        for way, (up, down) in {"smaller": (5, 9), "larger": (8, 5)}.items():
            size = (width * up // down, height * up // down)
            expected = reference(path, *size, "linear")
            row = {"picture": name, "way": way, "engines": {}}
            for engine_name in ("platen", "pyvips", "pillow"):
                file = folder / f"out-{engine_name}.png"
                engines[engine_name].render(path, *size, "png", "linear", file)
                got = shown(file)
                row["engines"][engine_name] = {"psnr": psnr(got, expected), "ssim": float(ssim(got, expected))}
            ours, vips, pillow = row["engines"].values()
            # A hundredth of a decibel is the last digit that is printed.
            row["reached"] = bool(
                ours["psnr"] > vips["psnr"] - 0.005
                and ours["ssim"] > vips["ssim"] - 5e-6
                and ours["psnr"] > pillow["psnr"]
                and ours["ssim"] > pillow["ssim"] - 5e-6
            )
            rows.append(row)
            print(f"    {name[:13]:14}{way:8}", end="")
            for figures in row["engines"].values():
                print(f"{figures['psnr']:9.2f} {figures['ssim']:.5f} ", end="")
            print("" if row["reached"] else "  MISSED", flush=True)
    return rows


def main(folder, ours):
    folder = pathlib.Path(folder).absolute()
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    make_large(pictures)
    engines = {
        "platen": Engine(ours),
        "sharp": Engine("node", str(HERE / "sharp.mjs"), str(folder)),
        "pyvips": Engine(sys.executable, __file__, "--peer", "pyvips"),
        "pillow": Engine(sys.executable, __file__, "--peer", "pillow"),
    }
    rounds = int(os.environ.get("ROUNDS") or 5)
    print(f"CPU per picture, one thread, medians of {rounds} rounds of 4 pictures; sRGB levels are resampled, then light")
    result = {"rounds": rounds, "speed": speed(engines, pictures, rounds, "display", CASES)}
    linear = [(*case[:3], LINEAR, case[4]) for case in CASES if case[0] != case[1]]
    some = {name: engine for name, engine in engines.items() if name != "pillow"}
    result["linear"] = speed(some, pictures, rounds, "linear", linear)
    result["quality"] = quality(engines, pictures)
    for engine in engines.values():
        engine.close()
    (folder.parent / "pictures.json").write_text(json.dumps(result, indent=1) + "\n")
    rows = [row for part in ("speed", "linear", "quality") for row in result[part]]
    missed = sum(not row["reached"] for row in rows)
    print(f"\n{len(rows) - missed} of {len(rows)} targets reached; figures in {folder.parent / 'pictures.json'}")
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1] == "--peer":
        peer(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:]))
