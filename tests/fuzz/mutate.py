"""Damage: to the bytes of any file, and to the structure of those whose structure is known."""
from __future__ import annotations

import hashlib
import io
import json
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import yaml

from tests.fuzz import odd

Draw = random.Random
MOST = 4_000_000  # bytes of a damaged file

CALL = b"(S'touch fired'\ntR"  # what follows a function's name in a pickle that runs it
SNIPPETS = (  # of pickles
    b"cos\nsystem\n" + CALL, b"cposix\nsystem\n" + CALL, b"cbuiltins\neval\n(S'open(\"fired\", \"w\")'\ntR",
    b"cfuzz_canary\nfire\n)R", b"\x80\x04\x8c\x0bfuzz_canary\x8c\x04fire\x93)R", b"(ifuzz_canary\nfire\n",
    b"cfuzz_canary\nFire\n)\x81", b"(cfuzz_canary\nFire\no", b"csubprocess\nPopen\n(](S'touch'\nS'fired'\neetR",
    b"ccollections\nOrderedDict\n)R", b"cnumpy.core.multiarray\n_reconstruct\n)R", b"cnumpy\ndtype\nU\x02f8\x85R",
    b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"cmodel\nLMF\n)\x81", b"}b", b"Q",
    b"2\x86" * 60, b"N" + b"2\x86" * 60 + b"Ns", b"]" * 3000, b"(" * 3000, b"N" * 5000, b"h\x01" * 2000,
    b"\x8a\xff" + b"\x7f" * 255, b"\x8b\xff\xff\xff\x7f", b"I" + b"9" * 5000 + b"\n", b"I0x" + b"f" * 5000 + b"\n",
    b"G\x7f\xf8\0\0\0\0\0\0", b"\x8e" + struct.pack("<Q", 2**40), b"\x95" + struct.pack("<Q", 2**60), b"q\x00",
    b"h\x00", b"r\xff\xff\xff\xff", b"K\xff", b"J\xff\xff\xff\xff", b"Pfired\n", b"\x82\x01", b"(\x91",
    *(bytes([opcode]) for opcode in b"012(teusabdlRN}])\x81\x85\x86\x87\x8f\x94\x97"),
)


def damaged(draw: Draw, raw: bytes, kind: str, others: list[bytes]) -> bytes:
    """`raw`, a file of this kind, after one to three mutations. `others`: files to splice from."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        structural = KINDS.get(kind)
        try:
            raw = structural(draw, raw) if structural and draw.random() < 0.6 else in_bytes(draw, raw, others)
        except Exception:  # what is damaged already has no structure any more
            raw = in_bytes(draw, raw, others)
    return raw[:MOST]


def in_bytes(draw: Draw, raw: bytes, others: list[bytes]) -> bytes:
    """Flip, cut, insert, repeat, splice, or change a number."""
    at, other = draw.randrange(len(raw) + 1), draw.randrange(len(raw) + 1)
    low, high = min(at, other), max(at, other)
    near = min(len(raw), at + draw.choice((1, 2, 4, 8, 64)))
    match draw.randrange(10):
        case 0 | 1:
            changed = bytearray(raw)
            for _ in range(draw.choice((1, 1, 2, 8))):
                if changed:
                    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case 2:
            return raw[:at]
        case 3:
            return raw[:at] + raw[near:]
        case 4:
            return raw[:at] + draw.choice(odd.BYTES) + raw[at:]
        case 5:
            return raw[:at] + draw.randbytes(near - at) + raw[near:]
        case 6:
            return raw[:at] + raw[at:near] * draw.choice((2, 10, 3000)) + raw[near:]
        case 7:
            return raw[:at] + draw.choice(others)[draw.randrange(1 + len(raw)):]
        case 8:
            return raw[:low] + raw[high:]
        case _:
            found = list(re.finditer(rb"-?\d+(\.\d+)?", raw[:100_000]))
            if not found:
                return raw[:at] + draw.choice(odd.BYTES) + raw[at:]
            place = draw.choice(found)
            return raw[:place.start()] + str(draw.choice(odd.NUMBERS + odd.FLOATS)).encode() + raw[place.end():]


def in_tree(draw: Draw, tree: Any) -> Any:
    """A JSON-like value with one part removed, replaced, renamed, repeated or moved."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, item in items:
            places.append((node, key))
            walk(item)

    walk(tree)
    if not places:
        return odd.value(draw)
    node, key = draw.choice(places)
    match draw.randrange(7):
        case 0:
            del node[key]
        case 1 | 2 | 3:
            node[key] = odd.value(draw)
        case 4:
            if isinstance(node, dict):
                node[draw.choice(odd.TEXTS)] = node.pop(key)
            else:
                node.extend(node[:] * draw.choice((1, 50)))
        case 5:
            node[key] = draw.choice(([node[key]], {"a": node[key]}, str(node[key])))
        case _:
            there, name = draw.choice(places)
            node[key], there[name] = there[name], node[key]
    return tree


def as_text(tree: Any) -> bytes:
    return odd.written(json.dumps(tree).encode())


def in_json(draw: Draw, raw: bytes) -> bytes:
    return as_text(in_tree(draw, json.loads(raw)))


def in_lines(draw: Draw, raw: bytes) -> bytes:
    """JSON, an object a line."""
    rows = [json.loads(line) for line in raw.splitlines()]
    if draw.random() < 0.2:
        draw.shuffle(rows)
    else:
        rows = in_tree(draw, rows)
    return b"".join(as_text(row) + b"\n" for row in rows)


def in_yaml(draw: Draw, raw: bytes) -> bytes:
    return odd.written(yaml.safe_dump(in_tree(draw, yaml.safe_load(raw))).encode("utf-8", "surrogatepass"))


def in_safetensors(draw: Draw, raw: bytes) -> bytes:
    """Its header, the record in it, or its numbers."""
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8:8 + size]), raw[8 + size:]
    record = header.get("__metadata__", {}).get("record")
    choice = draw.random()
    if record is not None and choice < 0.5:
        record = as_text(in_tree(draw, json.loads(record))).decode("utf-8")
        header["__metadata__"]["record"] = record
        if "sha256" in header["__metadata__"] and draw.random() < 0.5:  # by someone who knows of it
            header["__metadata__"]["sha256"] = hashlib.sha256(record.encode()).hexdigest()
    elif choice < 0.85 or not body:
        header = in_tree(draw, header)
    else:
        at = 4 * draw.randrange(max(1, len(body) // 4))
        number = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff" * 8))
        body = body[:at] + number + body[at + 4:]
    text = as_text(header)
    return struct.pack("<Q", len(text)) + text + body


def undigested(raw: bytes) -> bytes:
    """A checkpoint as an earlier version wrote it."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    metadata = header["__metadata__"]
    del metadata["sha256"]
    metadata["record"] = json.dumps({key: item for key, item in json.loads(metadata["record"]).items()
                                     if key != "tensors"})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size:]


def in_pickle(draw: Draw, raw: bytes) -> bytes:
    """Opcodes removed, repeated, moved or added."""
    starts = [place or 0 for _, _, place in pickletools.genops(raw)]
    steps = [raw[low:high] for low, high in zip(starts, [*starts[1:], len(raw)], strict=True)]
    at, other = draw.randrange(len(steps)), draw.randrange(len(steps))
    match draw.randrange(6):
        case 0:
            del steps[at]
        case 1:
            steps[at] *= draw.choice((2, 3, 1000))
        case 2:
            steps[at], steps[other] = steps[other], steps[at]
        case 3:
            steps[at] = draw.choice(SNIPPETS)
        case _:
            steps.insert(at, draw.choice(SNIPPETS) * draw.choice((1, 1, 1, 2, 500)))
    return b"".join(steps)


def in_zip(draw: Draw, raw: bytes) -> bytes:
    """An entry damaged, dropped, doubled, compressed or added; or what the end announces."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    choice, at = draw.randrange(7), draw.randrange(len(entries))
    name, content = entries[at]
    kind = "pickle" if name.endswith(".pkl") else "bytes"
    compression = zipfile.ZIP_STORED
    if choice <= 2:
        entries[at] = name, damaged(draw, content, kind, [content])
    elif choice == 3:
        del entries[at]
    elif choice == 4:
        entries.append((draw.choice((name, name + "x", "../" + name, "/" + name, "x/data.pkl", "")), content))
    elif choice == 5:
        compression = zipfile.ZIP_DEFLATED
        entries[at] = name, content + bytes(draw.choice((10, 10**6)))
    made = zipped(entries, compression)
    if choice == 6:
        end = len(made) - 22 + draw.choice((8, 10, 12, 16, 20))
        made = made[:end] + draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1\0\0\0")) + made[end + 4:]
    return made


def zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive whose bytes depend on nothing else, least of all on the time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


FLAGS = ("--help_", "--rank", "--seed", "--config", "--cuda", "--modalities", "--resume", "--run_id", "--epochs",
         "--seeds", "--loss_scale", "--output", "--trials", "--", "-x", "=")


def in_flags(draw: Draw, raw: bytes) -> bytes:
    """Arguments, a NUL between: no argument can hold one."""
    words = raw.decode("utf-8", "surrogateescape").split("\0")
    at = draw.randrange(len(words))
    text = str(draw.choice((*odd.TEXTS, *map(str, odd.NUMBERS), *map(str, odd.FLOATS), "9" * 5000, "\udcff")))
    match draw.randrange(6):
        case 0:
            del words[at]
        case 1 | 2 | 3:
            words[at] = text
        case 4:
            words.insert(at, draw.choice(FLAGS))
        case _:
            words[at] += "=" + text
    return "\0".join(word.replace("\0", "") for word in words).encode("utf-8", "surrogatepass")


KINDS: dict[str, Callable[[Draw, bytes], bytes]] = {
    "json": in_json, "lines": in_lines, "yaml": in_yaml, "safetensors": in_safetensors, "pickle": in_pickle,
    "zip": in_zip, "flags": in_flags,
}
