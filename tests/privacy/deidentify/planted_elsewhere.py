"""The second generator of planted values: places where the first one, which goes by the standard's table, does not look.

Private blocks, unknown VRs with sequences inside, open-ended sequences, binary VRs, long texts, names in every
repertoire of characters, values split over multiplicities, wrong VRs, command elements, group lengths, repeating
groups, digital signatures, preamble and tail; in each native transfer syntax.  `plant(syntax)` gives the file and its
markers, each with the bytes that must not be found again.
"""

import struct
import zlib
from typing import Any

from planted import CT, LONG

EXPLICIT, IMPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".1.99"))
SYNTAXES = [EXPLICIT, IMPLICIT, BIG, DEFLATED]
OPEN = 0xFFFFFFFF

Value = bytes | list[list[tuple[int, str, Any]]]  # of an element, or a sequence's items
ENTRY = tuple[int, str, Value]

NAMES = {  # character set -> a name in it, with its ideographic and phonetic groups
    "latin 1": ("ISO_IR 100", "Mülleröß^Jérôme^Ångström".encode("latin-1")),
    "utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東=Ван^Сяодун".encode()),
    "gb18030": ("GB18030", "Wang^XiaoDong=王四^小东大".encode("gb18030")),
    "gbk": ("GBK", "Zhang^SiXi=张思^细小".encode("gbk")),
    "iso 2022 jp": ("\\ISO 2022 IR 87", b"Yamada^Tarou=" + "山田^太郎".encode("iso2022_jp") + b"=" + "やまだ^たろう".encode("iso2022_jp")),
    "shift jis": ("ISO_IR 13", "ﾔﾏﾀﾞｸﾝ^ﾀﾛｳｻﾝ".encode("shift_jis") + b"=" + "山田^太郎".encode("shift_jis")),
    "iso 2022 kr": ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C" + "洪^吉洞".encode("euc_kr") + b"=\x1b$)C" + "홍^길동".encode("euc_kr")),
    "greek": ("ISO_IR 126", "Διονυσίου^Ελένη".encode("iso8859_7")),
    "cyrillic": ("ISO_IR 144", "Люкceмбypг^Розa".encode("iso8859_5")),
    "hebrew": ("ISO_IR 138", "שרון^דבורה".encode("iso8859_8")),
    "broken": ("ISO 2022 WRONG", b"\x1b$Bnonsense\xff\xfe^\x80\x81\x82\x83"),
}


class Writer:
    """Encodes elements in one transfer syntax; sequences open-ended or with lengths, in turn."""

    def __init__(self, syntax: str):
        self.implicit, self.order = syntax == IMPLICIT, ">" if syntax == BIG else "<"
        self.open = False

    def element(self, tag: int, vr: str, value: Value) -> bytes:
        if isinstance(value, list):
            self.open = not self.open
            return self._sequence(tag, vr, value, self.open)
        value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
        return self._head(tag, vr, len(value)) + value

    def _head(self, tag: int, vr: str, length: int) -> bytes:
        start = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if self.implicit or tag >> 16 == 0xFFFE:
            return start + struct.pack(self.order + "I", length)
        if vr in LONG:
            return start + vr.encode() + struct.pack(self.order + "2xI", length)
        return start + vr.encode() + struct.pack(self.order + "H", length)

    def _sequence(self, tag: int, vr: str, items: list[list[ENTRY]], open_ended: bool) -> bytes:
        writer = self
        if vr == "UN" and self.order == "<":  # what is inside is implicit VR, whatever is around it
            writer = Writer(IMPLICIT)
        elif vr == "UN":  # in big endian there were no such sequences
            vr = "SQ"
        body = b""
        for item in items:
            inner = writer.dataset(item)
            body += writer._head(0xFFFEE000, "", OPEN if open_ended else len(inner)) + inner
            body += writer._head(0xFFFEE00D, "", 0) if open_ended else b""
        body += writer._head(0xFFFEE0DD, "", 0) if open_ended else b""
        return self._head(tag, vr, OPEN if open_ended else len(body)) + body

    def dataset(self, entries: list[ENTRY]) -> bytes:
        return b"".join(self.element(*entry) for entry in sorted(entries, key=lambda entry: entry[0]))

    def number(self, *numbers: int, form: str = "H") -> bytes:
        return struct.pack(self.order + form * len(numbers), *numbers)


class Markers(dict[str, bytes]):
    """Where -> bytes; calling it makes a marker."""

    def __call__(self, where: str, form: str = "Hidden{:05}^Planted{:05}") -> bytes:
        number = len(self) + 1
        self[where] = form.format(*[number] * form.count("{")).encode()
        return self[where]


def image(writer: Writer, instance: bytes = b"1.2.826.0.1.88.1") -> list[ENTRY]:
    """A plain CT slice of 8 × 8 pixels."""
    number = writer.number
    return [
        (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", instance),
        (0x00080020, "DA", b"20200131"),
        (0x00080030, "TM", b"101500"),
        (0x00080060, "CS", b"CT"),
        (0x00100010, "PN", b"Elsewhere^Patient"),
        (0x00100020, "LO", b"ELSEWHERE-ID"),
        (0x0020000D, "UI", b"1.2.826.0.1.88.1000"),
        (0x0020000E, "UI", b"1.2.826.0.1.88.2000"),
        (0x00200013, "IS", b"2"),
        (0x00280002, "US", number(1)),
        (0x00280004, "CS", b"MONOCHROME2"),
        (0x00280010, "US", number(8)),
        (0x00280011, "US", number(8)),
        (0x00280100, "US", number(16)),
        (0x00280101, "US", number(16)),
        (0x00280102, "US", number(15)),
        (0x00280103, "US", number(0)),
        (0x7FE00010, "OW", number(*range(64))),
    ]


def texts(mark: Markers, where: str) -> list[ENTRY]:
    """One element of each VR that can hold words, none of them in any allow-list."""
    forms = {
        "AE": "HID{:05}",
        "CS": "HIDDEN{:05}",
        "SH": "HIDDEN{:05}",
        "UI": "1.2.826.0.1.88.77{:05}",
        "DS": "77{:06}.25",
        "IS": "77{:06}",
    }
    forms |= {"DA": "{:08}", "TM": "1122{:02}.9{:05}", "DT": "20110203112233.8{:05}", "UR": "https://host/patient/{:05}"}
    tags = {
        "AE": 0x00080054, "CS": 0x00104000, "DA": 0x00321000, "DS": 0x00101030, "DT": 0x0040A13A, "IS": 0x00201200, "LO": 0x00101000,
        "LT": 0x001021B0, "PN": 0x00081048, "SH": 0x00080094, "ST": 0x00080081, "TM": 0x00321001, "UC": 0x00189367, "UI": 0x00281199,
        "UN": 0x00101081, "UR": 0x0040E010, "UT": 0x0040A160, "OB": 0x00420011, "OW": 0x00281408, "OF": 0x00640009, "OD": 0x00720073,
        "OL": 0x00660129, "OV": 0x0040A0F0, "FD": 0x00189074, "UL": 0x0040A0F2, "AT": 0x00720026,
    }  # fmt: skip
    found: list[ENTRY] = []
    for vr, tag in tags.items():
        marker = mark(f"{where} {vr} {tag:08X}", forms.get(vr, "Hidden{:05}x{:05} of the patient"))
        found.append((tag, vr, marker + b"x" * (-len(marker) % 8) if vr in ("FD", "UL", "AT", "OF", "OD", "OL", "OV") else marker))
    return found


def private(mark: Markers, where: str, depth: int = 2) -> list[ENTRY]:
    """A private block: text, bytes, an unknown VR, and sequences, open-ended ones included."""
    inner: list[ENTRY] = [
        (0x00190010, "LO", mark(f"{where}: creator in a sequence")),
        (0x00191001, "PN", mark(f"{where}: name in a sequence")),
        (0x00100010, "PN", mark(f"{where}: standard name in a private sequence")),
    ]
    if depth:
        inner.append((0x00191002, "SQ", [private(mark, f"{where} >", depth - 1)]))
    return [
        (0x00190010, "LO", b"GEMS_ACQU_01"),
        (0x00190011, "LO", mark(f"{where}: creator")),
        (0x00191001, "LO", mark(f"{where}: text")),
        (0x00191003, "OB", b"\0\1\2" + mark(f"{where}: bytes")),
        (0x00191004, "UN", mark(f"{where}: unknown VR")),
        (0x00191005, "SQ", [inner, [(0x00191106, "UT", mark(f"{where}: long text"))]]),
        (
            0x00191007,
            "UN",
            [
                [(0x00100030, "DA", mark(f"{where}: in an unknown VR", "{:08}"))],
                [(0x00081010, "SH", mark(f"{where}: item two", "HID{:05}"))],
            ],
        ),
        (0x00191008, "UN", Writer(IMPLICIT).dataset([(0x00100010, "PN", mark(f"{where}: a data set as bytes"))])),
        (0x00191101, "UR", mark(f"{where}: address", "https://host/{:05}")),
    ]


def plant(syntax: str = EXPLICIT, names: str = "latin 1", instance: bytes = b"1.2.826.0.1.88.1") -> tuple[bytes, Markers]:
    """A file in `syntax` with a name in the repertoire `names`, and its markers."""
    mark, writer = Markers(), Writer(syntax)
    entries = {entry[0]: entry for entry in image(writer, instance)}

    def put(*more: ENTRY) -> None:
        entries.update({entry[0]: entry for entry in more})

    put(*texts(mark, "top"), *private(mark, "private"))
    repertoire, name = NAMES[names]
    put((0x00080005, "CS", repertoire.encode()), (0x00100010, "PN", name), (0x00081070, "PN", name + b"\\" + name))
    pieces = [piece for group in name.split(b"=") for piece in group.split(b"^") if len(piece) >= 4]
    mark.update({f"name {number}": piece for number, piece in enumerate(pieces)})
    kept_sequence = [*texts(mark, "kept sequence"), *private(mark, "private in a kept sequence", 0)]
    put(
        (0x00082112, "SQ", [[(0x00081150, "UI", CT.encode()), (0x00081155, "UI", mark("source image", "1.2.826.0.1.88.5{:05}")), *kept_sequence]]),
        (0x00082218, "SQ", [[(0x00080100, "SH", mark("code", "HID{:05}")), (0x00080102, "SH", b"99HIDDEN"), (0x00080104, "LO", mark("meaning"))]]),
        (0x00081140, "UN", [[(0x00081155, "UI", mark("image in an unknown VR", "1.2.826.0.1.88.6{:05}")), (0x00100010, "PN", mark("name beside it"))]]),
        (0x00283010, "SQ", [[(0x00283002, "US", writer.number(32, 0, 16)), (0x00283003, "LO", mark("table's explanation")), (0x00283006, "OW", mark("table data", "Hidden{:05}^Planted{:05} as numbers"))]]),
    )  # fmt: skip
    put(  # kept attributes with words that are none of theirs, split over multiplicities, or in another VR
        (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\" + mark("image type", "HIDDEN{:05}") + b"\\JANE"),
        (0x00180015, "CS", mark("body part", "HIDDEN{:05}")),
        (0x00180022, "CS", b"HELIX\\" + mark("scan options", "HIDDEN{:05}")),
        (0x00180050, "DS", b"2.5\\" + mark("thickness")),
        (0x00181050, "DS", mark("resolution in another VR") if syntax == IMPLICIT else b"0.5"),
        (0x00181210, "SH", b"B30f " + mark("kernel", "HID{:05}")),
        (0x00200011, "IS", b"4 " + mark("series number", "HIDDEN{:05}")),
        (0x00201040, "LO", mark("position reference")),
        (0x00280030, "DS", b"0.5\\0.5 " + mark("spacing")),
        (0x00281050, "DS", b"40\\" + mark("window")),
        (0x00281055, "LO", mark("window's explanation")),
        (0x00101010, "AS", b"077Y"),
        (0x00080070, "LO", mark("maker")),
        (0x00081090, "LO", b"SOMATOM " + mark("model", "HID{:05}")),
        (0x00200052, "UI", mark("frame of reference", "1.2.840.10008.{:05}")),
        (0x00209161, "UI", mark("concatenation")),
        (0x00189334, "CS", mark("unknown flag", "HID{:05}")),
    )
    put(*[(0x50003000 | number << 17, "OW", mark(f"curve {number}")) for number in (0, 1, 15)])
    put(*[(0x50002500 | number << 17, "LO", mark(f"curve label {number}")) for number in (0, 15)])
    put(*[(0x60003000 | number << 17, "OW", mark(f"overlay {number}")) for number in (0, 1, 15)])
    put(*[(0x60001500 | number << 17, "LO", mark(f"overlay label {number}")) for number in (0, 15)])
    put(*[(group << 16, "UL", b"\x99\x99\x99\x99") for group in (0x08, 0x10, 0x19, 0x20, 0x28, 0x6000, 0x7FE0)])
    put(
        (0x00000002, "UI", mark("command: class", "1.2.826.0.1.88.7{:05}")),
        (0x00001000, "UI", mark("command: instance", "1.2.826.0.1.88.8{:05}")),
    )
    put((0x00001030, "AE", mark("command: move originator", "HID{:05}")), (0x00041500, "CS", mark("file of a DICOMDIR", "HIDDEN{:05}")))
    signature = [
        (0x04000110, "UI", mark("signer", "1.2.826.0.1.88.9{:05}")),
        (0x04000115, "OB", mark("certificate")),
        (0x04000120, "OB", b"12345678"),
    ]
    put((0xFFFAFFFA, "SQ", [signature]), (0xFFFCFFFC, "OB", mark("padding")))
    put((0x7FE00001, "OV", b"HIDDENOF"), (0x00880200, "SQ", [[*image(writer)[-9:], (0x00100010, "PN", mark("icon"))]]))
    mark["offsets"] = b"HIDDENOF"
    body = writer.dataset(list(entries.values()))
    if syntax == DEFLATED:
        machine = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = machine.compress(body) + machine.flush()
    preamble = b"II*\0\x10\0\0\0" + mark("preamble").ljust(120, b"\0")  # a TIFF header, as of a dual-personality file
    group = Writer(EXPLICIT).dataset(
        [
            (0x00020001, "OB", b"\0\1"),
            (0x00020002, "UI", CT.encode()),
            (0x00020003, "UI", instance),
            (0x00020010, "UI", syntax.encode()),
            (0x00020016, "AE", mark("meta: source", "HID{:05}")),
            (0x00020018, "AE", mark("meta: receiver", "HID{:05}")),
            (0x00020026, "UR", mark("meta: address", "https://host/{:05}")),
            (0x00020100, "UI", mark("meta: creator", "1.2.826.0.1.88.4{:05}")),
            (0x00020102, "OB", mark("meta: private")),
        ]
    )
    return preamble + b"DICM" + Writer(EXPLICIT).element(0x00020000, "UL", struct.pack("<I", len(group))) + group + body, mark
