# Plain data between the two processes: a tag, then the payload; numbers little-endian. Exact types, nothing is looked up by
# name and nothing is called: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range and
# "the items of an iterator". Lists, dicts and sets of a call's arguments are numbered in the order in which they appear; an
# answer can refer to them, so that what the function does to its arguments happens to the caller's.
import os
import struct

DEPTH_MAX = 150
INT_BYTES_MAX = 1 << 16
ITEMS_MAX = 1 << 18
FRAME_BYTES_MAX = 1 << 22

COUNTED = {b"l": list, b"t": tuple, b"S": set, b"Z": frozenset, b"g": iter}


class Unfit(Exception):
    """What is to be handed over is no plain data, or too much of it."""


class TooMuch(Unfit):
    """It is plain data, but too large or too deep."""


class Malformed(Exception):
    """What came is not in this form."""


def write_frame(fd, data):
    if len(data) > FRAME_BYTES_MAX:
        raise TooMuch(f"more than {FRAME_BYTES_MAX} bytes")
    data = memoryview(len(data).to_bytes(4, "little") + bytes(data))
    while data:
        data = data[os.write(fd, data):]


def read_exactly(fd, count):
    data = bytearray()
    while len(data) < count:
        part = os.read(fd, min(count - len(data), 1 << 16))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def read_frame(fd):
    count = int.from_bytes(read_exactly(fd, 4), "little")
    if count > FRAME_BYTES_MAX:
        raise Malformed(f"{count} bytes")
    return read_exactly(fd, count)


class Writer:
    """Encodes values. `known` are the numbered lists, dicts and sets; with `counts` new ones are added."""

    def __init__(self, known, counts):
        self.out = bytearray()
        self.known = known
        self.numbers = {id(value): number for number, value in enumerate(known)}
        self.counts = counts

    def count(self, tag, count):
        if count > ITEMS_MAX:
            raise TooMuch(f"more than {ITEMS_MAX} items")
        self.out += tag + count.to_bytes(4, "little")

    def bytes(self, tag, data):
        self.out += tag + len(data).to_bytes(4, "little") + data
        if len(self.out) > FRAME_BYTES_MAX:
            raise TooMuch(f"more than {FRAME_BYTES_MAX} bytes")

    def items(self, tag, values, depth):
        self.count(tag, len(values))
        for value in values:
            self.value(value, depth)

    def pairs(self, value, depth):
        pairs = list(dict.items(value))
        self.count(b"d", len(pairs))
        for key, item in pairs:
            self.value(key, depth)
            self.value(item, depth)

    def value(self, value, depth=0, inside=False):
        """`inside`: the contents are wanted, also of what has a number. Subclasses go as what they are made of."""
        if depth > DEPTH_MAX:
            raise TooMuch(f"nested more than {DEPTH_MAX} deep")
        if len(self.out) > FRAME_BYTES_MAX:
            raise TooMuch(f"more than {FRAME_BYTES_MAX} bytes")
        kind = type(value)
        if value is None:
            self.out += b"N"
        elif kind is bool:
            self.out += b"T" if value else b"F"
        elif issubclass(kind, int):
            value = int.__int__(value)
            if value.bit_length() > INT_BYTES_MAX * 8 - 1:
                raise TooMuch(f"an integer of more than {INT_BYTES_MAX} bytes")
            self.bytes(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
        elif issubclass(kind, float):
            self.out += b"f" + struct.pack("<d", value)
        elif issubclass(kind, complex):
            self.out += b"c" + struct.pack("<dd", value.real, value.imag)
        elif issubclass(kind, str):
            self.bytes(b"s", str.encode(value, "utf-8", "surrogatepass"))
        elif issubclass(kind, (bytes, bytearray)):
            self.bytes(b"b", bytes(value))
        elif issubclass(kind, tuple):
            self.items(b"t", list(tuple.__iter__(value)), depth + 1)
        elif issubclass(kind, frozenset):
            self.items(b"Z", list(frozenset.__iter__(value)), depth + 1)
        elif issubclass(kind, (list, dict, set)):
            self.container(value, depth + 1, inside)
        elif kind is range:
            self.out += b"r"
            for part in (value.start, value.stop, value.step):
                self.value(part)
        elif hasattr(kind, "__next__"):
            self.iterator(value, depth + 1)
        else:
            raise Unfit(f"a {kind.__name__} is no plain data")

    def container(self, value, depth, inside):
        number = self.numbers.get(id(value))
        if number is not None and not inside:
            self.out += b"R" + number.to_bytes(4, "little")
            return
        if self.counts:
            self.numbers[id(value)] = len(self.known)
            self.known.append(value)
        if isinstance(value, list):
            self.items(b"l", list(list.__iter__(value)), depth)
        elif isinstance(value, dict):
            self.pairs(value, depth)
        else:
            self.items(b"S", list(set.__iter__(value)), depth)

    def iterator(self, value, depth):
        items = []
        for item in value:
            items.append(item)
            if len(items) > ITEMS_MAX:
                raise TooMuch(f"more than {ITEMS_MAX} items")
        self.items(b"g", items, depth)


class Reader:
    """Decodes one frame. `known` are the numbered lists, dicts and sets; with `counts` new ones are added."""

    def __init__(self, data, known, counts):
        self.data = data
        self.at = 0
        self.known = known
        self.counts = counts

    def take(self, count):
        end = self.at + count
        if end > len(self.data):
            raise Malformed("it ends too soon")
        part = self.data[self.at:end]
        self.at = end
        return part

    def number(self):
        return int.from_bytes(self.take(4), "little")

    def end(self):
        if self.at != len(self.data):
            raise Malformed("it goes on after its end")

    def text(self):
        try:
            return self.take(self.number()).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise Malformed("a text is not UTF-8") from None

    def small(self):
        value = self.value(DEPTH_MAX)
        if type(value) is not int:
            raise Malformed("a range is not of integers")
        return value

    def value(self, depth=0):
        if depth > DEPTH_MAX:
            raise Malformed(f"it is nested more than {DEPTH_MAX} deep")
        tag = self.take(1)
        if tag in b"NTF":
            return {b"N": None, b"T": True, b"F": False}[tag]
        if tag == b"i":
            count = self.number()
            if count > INT_BYTES_MAX:
                raise Malformed(f"an integer has {count} bytes")
            return int.from_bytes(self.take(count), "little", signed=True)
        if tag == b"f":
            return struct.unpack("<d", self.take(8))[0]
        if tag == b"c":
            return complex(*struct.unpack("<dd", self.take(16)))
        if tag == b"s":
            return self.text()
        if tag == b"b":
            return self.take(self.number())
        if tag == b"r":
            parts = [self.small() for _ in range(3)]
            if parts[2] == 0:
                raise Malformed("a range has no step")
            return range(*parts)
        if tag == b"R":
            number = self.number()
            if number >= len(self.known):
                raise Malformed(f"there is no argument {number}")
            return self.known[number]
        if tag == b"d" or tag in COUNTED:
            return self.counted(tag, depth + 1)
        raise Malformed(f"there is no tag {tag!r}")

    def counted(self, tag, depth):
        count = self.number()
        # Every item takes a byte at least.
        if count > min(ITEMS_MAX, len(self.data) - self.at):
            raise Malformed(f"it has {count} items")
        made = {b"l": list, b"d": dict, b"S": set}.get(tag, list)()
        if self.counts and tag in b"ldS":
            self.known.append(made)
        try:
            if tag == b"d":
                for _ in range(count):
                    key = self.value(depth)
                    made[key] = self.value(depth)
            else:
                add = made.add if tag == b"S" else made.append
                for _ in range(count):
                    add(self.value(depth))
            if tag in b"tZg":
                made = COUNTED[tag](made)
        except TypeError:
            raise Malformed("a key cannot be one") from None
        if tag in b"dSZ" and len(made) != count:
            raise Malformed("a key is there twice")
        return made


def contents(known):
    """The contents of each of the numbered lists, dicts and sets, with numbered items as references."""
    parts = []
    writer = Writer(known, False)
    for value in known:
        writer.out = bytearray()
        writer.value(value, inside=True)
        parts.append(bytes(writer.out))
    return parts


def refill(value, new):
    """Gives a list, dict or set the contents of another of its kind."""
    if type(value) is not type(new):
        raise Malformed("an argument has become another kind")
    if type(value) is list:
        value[:] = new
    else:
        value.clear()
        value.update(new)
