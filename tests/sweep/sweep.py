"""Every PNG, JPEG and WebP file of Pillow's own tests, through the picture engine and through Pillow with LittleCMS.

`make sweep` runs it. Each file is taken as an upload and as a provider's answer. Both must refuse it or both must open it, and what
they see may differ by 4 of 255 levels on average. A file for which that cannot hold stands in `exceptions.toml`, by its SHA-256, with
the reason. One that stands there without need is a failure, as is one too many.
"""

import hashlib
import io
import pathlib
import struct
import subprocess
import sys
import tomllib
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

HERE = pathlib.Path(__file__).parent
MOST_DIFFERENT = 4.0
MOST_EXCEPTIONS = 15
WAYS = ("upload", "answer")
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jfif", ".mpo", ".webp"}

# x and y of white, red, green and blue.
SRGB = np.array([0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06])

ImageFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = None
warnings.simplefilter("ignore")


def is_ours(path):
    """By its content or by its name."""
    head = path.read_bytes()[:16]
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP" or path.suffix.lower() in SUFFIXES
    return head.startswith(SIGNATURES) or path.suffix.lower() in SUFFIXES


def opened(file):
    """What is to be seen, upright, in sRGB, as Pillow reads it; and how much of it covers what is behind, from 0 to 255."""
    image = Image.open(io.BytesIO(file), formats=("PNG", "JPEG", "WEBP"))
    image.load()
    profile, named = image.info.get("icc_profile"), light_of(file)
    transparent = image.info.get("transparency")
    image = ImageOps.exif_transpose(image)
    cover = np.full((image.height, image.width), 255.0)
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float64)
        if isinstance(transparent, int):
            cover[levels == transparent] = 0
        image = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        cover = np.asarray(image.convert("RGBA").getchannel("A"), np.float64)
        image = image.convert("RGBA").convert("RGB")
    if named:
        return from_light(np.asarray(image.convert("RGB"), np.float64) / 255, *named), cover
    return np.asarray(in_srgb(image, profile), np.float64), cover


def in_srgb(image, profile):
    """By LittleCMS, if the profile is one for such an image."""
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space
            if space == "RGB " and image.mode == "L":
                image = image.convert("RGB")
            if {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}.get(space) == image.mode:
                srgb = ImageCms.createProfile("sRGB")
                return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # one that cannot be read is not heeded
    return image.convert("RGB")


def light_of(file):
    """Gamma and primaries of a PNG that names its colours by nothing else; Pillow does not heed them."""
    if not file.startswith(SIGNATURES[0]):
        return None
    chunks, at = {}, 8
    while at + 8 <= len(file) and b"IDAT" not in chunks:
        (length,) = struct.unpack(">I", file[at : at + 4])
        chunks.setdefault(file[at + 4 : at + 8], file[at + 8 : at + 8 + length])
        at += length + 12
    if chunks.keys() & {b"iCCP", b"sRGB"} or not chunks.keys() & {b"gAMA", b"cHRM"}:
        return None
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 1e5 if b"gAMA" in chunks else 1 / 2.2
    points = np.array(struct.unpack(">8I", chunks[b"cHRM"])) / 1e5 if b"cHRM" in chunks else SRGB
    # 1/2.2 is how programs that know no other curve write sRGB.
    return (None if abs(gamma * 2.2 - 1) < 0.011 else gamma), points.reshape(4, 2)


def from_light(levels, gamma, points):
    """To sRGB, by the formulas of the PNG specification and of IEC 61966-2-1; white stays white."""
    light = levels ** (1 / gamma) if gamma else np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light = light @ (np.linalg.inv(adapted(SRGB.reshape(4, 2))) @ adapted(points)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def adapted(points):
    """From light of these primaries to XYZ, as it looks beside equal energy (Bradford)."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points])
    white, primaries = xyz[0], xyz[1:].T
    matrix = primaries * np.linalg.solve(primaries, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    return np.linalg.inv(bradford) @ np.diag(1 / (bradford @ white)) @ bradford @ matrix


def on_white(levels, cover):
    cover = (cover / 255)[..., None]
    return levels * cover + 255 * (1 - cover)


class Engine:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def make(self, way, size, source, out):
        """Why it is refused, or nothing."""
        self.process.stdin.write("\t".join([way, str(size[0]), str(size[1]), str(source), str(out)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the engine died of {source}")
        return answer.strip()


def difference(way, path, engine, out):
    """In words; nothing where there is none."""
    size, pillow = (64, 64), ""
    try:
        expected = on_white(*opened(path.read_bytes()))
        size = expected.shape[1::-1]
    except Exception as error:  # whatever it raises is its refusal
        pillow = str(error) or type(error).__name__
    refused = engine.make(way, size, path, out)
    if refused and pillow:
        return ""
    if refused or pillow:
        return f"we refuse it: {refused}" if refused else f"Pillow refuses it: {pillow}"
    made = Image.open(out)
    made.load()
    if made.size != size:
        # Uploads are made smaller.
        whole = Image.fromarray(expected.round().clip(0, 255).astype(np.uint8))
        expected = np.asarray(whole.resize(made.size), np.float64)
    made = made.convert("RGBA")
    ours = on_white(np.asarray(made.convert("RGB"), np.float64), np.asarray(made.getchannel("A"), np.float64))
    differs = np.abs(ours - expected).mean()
    return f"it differs by {differs:.1f} levels" if differs > MOST_DIFFERENT else ""


def main(folder, program):
    folder = pathlib.Path(folder)
    exceptions = tomllib.loads((HERE / "exceptions.toml").read_text()).get("exception", [])
    reasons = {entry["sha256"]: entry["reason"] for entry in exceptions}
    engine, out = Engine(program), folder.parent / "made"
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_ours(path)):
        files.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    unexplained, needed = 0, set()
    for digest, path in files.items():
        for way in WAYS:
            words = difference(way, path, engine, out)
            if words and digest in reasons:
                needed.add(digest)
            elif words:
                unexplained += 1
                print(f"  {path.relative_to(folder)} as {way}: {words}\n    {digest}")
    idle = [digest for digest in reasons if digest not in needed]
    for digest in idle:
        print(f"  the exception for {digest} is not needed any more")
    print(f"{len(files)} files, each as an upload and as an answer: {unexplained} unexplained differences, {len(reasons)} exceptions")
    if len(reasons) > MOST_EXCEPTIONS:
        print(f"  at most {MOST_EXCEPTIONS} exceptions are allowed")
    return 1 if unexplained or idle or len(reasons) > MOST_EXCEPTIONS or not files else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
