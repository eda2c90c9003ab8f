"""What arrives by C-STORE or is fetched from a DICOMweb server ends in the inbox, whole, once, under a name that says
nothing."""

import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pydicom
import pytest
from conftest import KEY
from planted import base, file

from fedvision.errors import ConfigError, DataError
from privacy.deidentify.inbox import Inbox, fetch, first_part, receiver

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


def test_a_sent_object_is_in_the_inbox_and_a_caller_that_may_not_send_is_rejected(tmp_path):
    pynetdicom = pytest.importorskip("pynetdicom")
    inbox, port = Inbox(tmp_path / "inbox", KEY), free_port()
    server = receiver(inbox, host="127.0.0.1", port=port, title="FEDVISION", callers=["SCANNER"])
    try:
        image = pydicom.dcmread(io.BytesIO(file(base())))
        statuses = []
        for title in ("SCANNER", "STRANGER"):
            entity = pynetdicom.AE(ae_title=title)
            entity.add_requested_context(image.SOPClassUID, "1.2.840.10008.1.2.1")
            association = entity.associate("127.0.0.1", port, ae_title="FEDVISION")
            statuses.append(association.send_c_store(image).Status if association.is_established else None)
            association.release()
    finally:
        server.shutdown()
    (arrived,) = (tmp_path / "inbox").glob("*.dcm")
    assert statuses == [0, None] and pydicom.dcmread(arrived).PatientID == "PLANTED-ID"


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
