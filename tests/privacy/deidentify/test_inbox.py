"""What arrives by C-STORE or is fetched from a DICOMweb server ends in the inbox, whole, once, under a name that says
nothing."""

import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import ClassVar

import pydicom
import pytest
from planted import base, file

from fedvision.errors import ConfigError, DataError
from privacy.deidentify.inbox import Inbox, fetch, first_part, receiver

KEY = bytes(range(32))
PLUGIN = next(iter(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*")), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_same_object_is_kept_once_and_another_under_its_uid_beside_it(tmp_path):
    inbox = Inbox(tmp_path / "inbox", KEY)
    assert inbox.put("1.2.3", b"one") and not inbox.put("1.2.3", b"one") and inbox.put("1.2.3", b"other")
    names = [path.name for path in (tmp_path / "inbox").iterdir()]
    assert len(names) == 2 and not any("1.2.3" in name for name in names)
    assert (tmp_path / "inbox").stat().st_mode & 0o077 == 0


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    inbox = Inbox(tmp_path / "inbox", KEY)
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.pread(-1, 1, 0))  # an OSError, as of a full disk
    with pytest.raises(OSError, match="Bad file descriptor"):
        inbox.put("1.2.3", b"one")
    assert not list((tmp_path / "inbox").iterdir())


def test_a_sent_object_is_in_the_inbox_and_who_may_not_send_or_sends_too_much_is_turned_away(tmp_path, monkeypatch):
    pynetdicom = pytest.importorskip("pynetdicom")
    monkeypatch.setattr("privacy.deidentify.inbox.LARGEST", 100_000)
    port = free_port()
    server = receiver(Inbox(tmp_path / "inbox", KEY), host="127.0.0.1", port=port, title="FEDVISION", callers=["SCANNER"])

    def sent(title: str, to: str, rows: int) -> object:
        image = pydicom.dcmread(io.BytesIO(file(base(rows=rows))))
        entity = pynetdicom.AE(ae_title=title)
        entity.add_requested_context(image.SOPClassUID, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", port, ae_title=to)
        if not association.is_established:
            return "rejected"
        try:
            return association.send_c_store(image).get("Status", "cut off")
        finally:
            association.release()

    try:
        answers = [
            sent("SCANNER", "FEDVISION", 8),
            sent("STRANGER", "FEDVISION", 8),
            sent("SCANNER", "OTHER", 8),
            sent("SCANNER", "FEDVISION", 9000),
        ]
    finally:
        server.shutdown()
    (arrived,) = (tmp_path / "inbox").iterdir()
    assert answers == [0, "rejected", "rejected", "cut off"] and pydicom.dcmread(arrived).PatientID == "PLANTED-ID"


def test_what_a_scanner_sends_to_the_commands_is_de_identified_while_they_run(tmp_path):
    pynetdicom = pytest.importorskip("pynetdicom")
    port, inbox, out, site = free_port(), tmp_path / "inbox", tmp_path / "out", tmp_path / "site"
    (tmp_path / "policy.yaml").write_text("options: ['113107']\n")
    command = [sys.executable, "-m", "privacy.deidentify"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    receive = subprocess.Popen([*command, "receive", str(inbox), "--site", str(site), "--port", str(port)], **quiet)
    started = [receive]
    try:
        entity = pynetdicom.AE(ae_title="SCANNER")
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
        association = until(lambda: _associated(entity, port))
        watch = [
            *command,
            "deidentify",
            str(inbox),
            str(out),
            "--site",
            str(site),
            "--policy",
            str(tmp_path / "policy.yaml"),
            "--watch",
            "0.2",
        ]
        started.append(subprocess.Popen(watch, **quiet))
        for number in (1, 2):  # the second arrives when the first is done
            assert association.send_c_store(pydicom.dcmread(io.BytesIO(file(base(number))))).Status == 0
            until(lambda number=number: len(list(out.glob("*/*/*.dcm"))) == number)
        association.release()
    finally:
        for process in started:
            process.terminate()
            process.wait()
    copies = [pydicom.dcmread(path) for path in out.glob("*/*/*.dcm")]
    assert [copy.PatientIdentityRemoved for copy in copies] == ["YES", "YES"] and receive.returncode == 0


def _associated(entity, port: int):
    association = entity.associate("127.0.0.1", port, ae_title="FEDVISION")
    return association if association.is_established else None


def until(what, seconds: float = 60):
    """What `what` gives as soon as it is true; an error where it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_port_that_is_taken_is_said_to_be(tmp_path):
    pytest.importorskip("pynetdicom")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            receiver(Inbox(tmp_path, KEY), host="127.0.0.1", port=taken.getsockname()[1], title="X", callers=[])


def test_what_is_no_dicomweb_server_is_said_to_be_none_without_a_uid(tmp_path):
    with pytest.raises(ConfigError, match="no address"):
        list(fetch("file:///etc", Inbox(tmp_path, KEY)))
    with pytest.raises(DataError, match="could not be asked for a list"):
        list(fetch(f"http://127.0.0.1:{free_port()}/dicom-web", Inbox(tmp_path, KEY)))
    with pytest.raises(DataError, match="multipart"):
        first_part(b"SMITH", "text/html")


class Archive(http.server.BaseHTTPRequestHandler):
    """A DICOMweb server of one series that knows no pages, and cuts its first answer with an instance in the middle."""

    cuts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        number = path.rpartition("/instances/")[2]
        if number.isdigit():
            body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file(base(int(number))) + b"\r\n--x--"
        else:
            tag, values = {"studies": ("0020000D", ["1 2"]), "series": ("0020000E", ["3/4"])}.get(
                path.rpartition("/")[2], ("00080018", [str(number) for number in range(12)])
            )
            assert path in ("/studies", "/studies/1%202/series", "/studies/1%202/series/3%2F4/instances")
            body = json.dumps([{tag: {"Value": [value]}} for value in values]).encode()
        self.send_response(200)
        self.send_header("Content-Type", 'multipart/related; boundary="x"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        first = number == "7" and not self.cuts
        self.cuts.extend(["7"] * first)
        self.wfile.write(body[: len(body) // 2] if first else body)

    def log_message(self, *_: object) -> None:
        return


def test_an_answer_that_is_cut_leaves_nothing_and_the_next_fetch_goes_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr("privacy.deidentify.inbox.PAGE", 5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url, inbox = f"http://127.0.0.1:{server.server_port}", Inbox(tmp_path / "inbox", KEY)
        with pytest.raises(DataError, match="was cut"):
            list(fetch(url, inbox))
        assert len(list((tmp_path / "inbox").iterdir())) == 7
        assert list(fetch(url, inbox)) == [False] * 7 + [True] * 5
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(
    PLUGIN is None or shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is None,
    reason="Orthanc with DICOMweb is not installed (Debian packages orthanc, orthanc-dicomweb)",
)
def test_what_a_real_orthanc_holds_is_fetched_once(tmp_path):
    port = free_port()
    config = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(config))
    server = subprocess.Popen(
        [str(shutil.which("Orthanc", path="/usr/sbin:/usr/bin")), str(tmp_path / "orthanc.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for number in (1, 2, 3):
            _upload(f"http://127.0.0.1:{port}/instances", file(base(number)))
        inbox = Inbox(tmp_path / "inbox", KEY)
        url = f"http://127.0.0.1:{port}/dicom-web"
        assert list(fetch(url, inbox)) == [True] * 3 and list(fetch(url, inbox)) == [False] * 3
        found = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "inbox").glob("*.dcm")}
        assert found == {f"1.2.826.0.1.77.{number}" for number in (1, 2, 3)}
    finally:
        server.terminate()
        server.wait()


def _upload(url: str, data: bytes) -> None:
    for _ in range(100):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, {"Expect": ""}), timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError("Orthanc did not start")
