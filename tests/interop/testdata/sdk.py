"""Drives an engine with Docker's Python library.

Prints "ok NAME" or "FAIL NAME" and a traceback per check; every check removes
what it made.
"""
import io
import json
import os
import sys
import tarfile
import threading
import time
import traceback

import docker
import requests
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

VERSION = os.environ.get("API_VERSION", "auto")
client = docker.DockerClient(base_url=os.environ["DOCKER_HOST"], version=VERSION, timeout=60)
REGISTRY = os.environ["REGISTRY"]
checks = []


def check(f):
    checks.append(f)
    return f


class container:
    """A container that is removed at the end of a with."""

    def __init__(self, command="sleep 1000", **kw):
        kw.setdefault("network_mode", "none")
        self.c = client.containers.run("busybox", command, detach=True, **kw)

    def __enter__(self):
        return self.c

    def __exit__(self, *_):
        self.c.remove(force=True, v=True)


def raises(kind, f, *a, **kw):
    try:
        f(*a, **kw)
    except kind as e:
        return e
    raise AssertionError("%s was not raised by %s%r" % (kind.__name__, f.__name__, a))


@check
def ping_version_info():
    assert client.ping()
    v = client.version()
    assert v["Os"] == "linux" and v["ApiVersion"] and v["MinAPIVersion"], v
    i = client.info()
    assert i["OSType"] == "linux" and i["NCPU"] > 0 and i["MemTotal"] > 0 and i["ID"], i
    df = client.df()
    assert df.get("Images") or df["ImageUsage"]["TotalCount"], df


@check
def run_output_and_errors():
    assert client.containers.run("busybox", "echo hello", remove=True, network_mode="none") == b"hello\n"
    out = client.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], remove=True, stderr=True, network_mode="none")
    assert sorted(out.split()) == [b"err", b"out"], out
    e = raises(ContainerError, client.containers.run, "busybox", "sh -c 'echo why >&2; exit 3'", remove=True, network_mode="none")
    assert e.exit_status == 3 and b"why" in e.stderr, e
    e = raises(APIError, client.containers.run, "busybox", "/no/such", remove=True, network_mode="none")
    assert e.status_code in (400, 404), e.status_code
    e = raises((ImageNotFound, APIError), client.containers.run, REGISTRY + "/no/such:image")
    assert e.status_code == 404, e


@check
def error_types():
    e = raises(NotFound, client.containers.get, "nobody")
    assert e.status_code == 404 and e.explanation == "No such container: nobody", e.explanation
    raises(ImageNotFound, client.images.get, "nothing:here")
    with container(name="taken") as c:
        e = raises(APIError, client.containers.create, "busybox", name="taken")
        assert e.status_code == 409 and 'Conflict. The container name "/taken" is already in use by container "%s"' % c.id in e.explanation, e.explanation
        e = raises(APIError, client.containers.get("taken").remove)
        assert e.status_code == 409, e
        raises(NotFound, client.api.put_archive, c.id, "/no/such/dir", b"")
        e = raises(APIError, c.unpause)
        assert e.status_code in (409, 500), e
    e = raises(APIError, client.containers.create, "busybox", mem_limit="1b")
    assert e.status_code == 400, e
    raises(NotFound, client.api.exec_start, "f" * 64)


@check
def settings_are_kept_and_work():
    with container(
        "sleep 1000", environment={"A": "b"}, labels={"k": "v"}, hostname="box", user="1000:1001", working_dir="/tmp",
        mem_limit="64m", nano_cpus=500000000, pids_limit=50, cap_drop=["ALL"], cap_add=["CHOWN"], read_only=True,
        tmpfs={"/scratch": "size=1m"}, volumes={"/etc": {"bind": "/host-etc", "mode": "ro"}}, init=True, stop_signal="SIGINT",
        security_opt=["no-new-privileges"], ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)],
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, shm_size="8m", sysctls={"net.ipv4.ip_forward": "0"},
        healthcheck=None, domainname="example.test", oom_score_adj=500, log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m"}),
    ) as c:
        h, k = c.attrs["HostConfig"], c.attrs["Config"]
        assert h["Memory"] == 64 << 20 and h["NanoCpus"] == 500000000 and h["PidsLimit"] == 50 and h["ReadonlyRootfs"] and h["Init"], h
        assert h["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2} and h["ShmSize"] == 8 << 20 and h["OomScoreAdj"] == 500, h
        assert h["Binds"] == ["/etc:/host-etc:ro"] and h["Tmpfs"] == {"/scratch": "size=1m"} and h["LogConfig"]["Config"] == {"max-size": "1m"}, h
        assert k["Hostname"] == "box" and k["User"] == "1000:1001" and k["Labels"]["k"] == "v" and "A=b" in k["Env"] and k["StopSignal"] == "SIGINT", k
        code, out = c.exec_run("sh -c 'id -u; pwd; echo $A; hostname; ulimit -n; ulimit -Hn; grep -E \"CapBnd|NoNewPrivs\" /proc/self/status; df -k /scratch /dev/shm | tail -n 2; touch /x; ls /host-etc/hostname'")
        text = out.decode()
        for want in ("1000\n/tmp\nb\nbox\n100\n200\n", "CapBnd:\t0000000000000001", "NoNewPrivs:\t1", "1024", "8192", "Read-only", "/host-etc/hostname"):
            assert want in text, (want, text)
        c.stop(timeout=5)
        c.reload()
        assert c.status == "exited" and c.attrs["State"]["ExitCode"] == 130, c.attrs["State"]


@check
def logs_once_and_streamed():
    with container("sh -c 'for i in 1 2 3; do echo line $i; done; echo bad >&2'") as c:
        assert c.wait()["StatusCode"] == 0
        assert c.logs(stderr=False) == b"line 1\nline 2\nline 3\n"
        assert c.logs(stdout=False) == b"bad\n"
        assert c.logs(timestamps=True, stderr=False).count(b"Z line") == 3
        assert c.logs(since=2 ** 31 - 1) == b""
    with container("sh -c 'for i in 1 2 3; do echo line $i; done'") as c:
        c.wait()
        assert c.logs(tail=1) == b"line 3\n" and c.logs(tail=0) == b"" and c.logs(tail="all").count(b"\n") == 3
    with container("sh -c 'while read l; do echo got $l; done'", stdin_open=True) as c:
        s = c.attach_socket(params={"stdin": 1, "stream": 1})
        stream = c.logs(stream=True, follow=True)
        for i in range(5):
            s._sock.sendall(b"%d\n" % i)
            assert next(stream) == b"got %d\n" % i
        c.kill()
        assert list(stream) == []


@check
def exec_all_ways():
    with container() as c:
        code, out = c.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
        assert (code, out) == (4, (b"o\n", b"e\n")), (code, out)
        code, out = c.exec_run("cat /proc/self/stat", stream=True)
        assert code is None and b"".join(out)
        code, out = c.exec_run("sh -c 'id -un; pwd; echo $X; tty'", user="tester", workdir="/tmp", environment={"X": "y"}, tty=True)
        assert out.replace(b"\r", b"").startswith(b"tester\n/tmp\ny\n/dev/pts/"), out
        code, out = c.exec_run("true", privileged=True)
        assert code == 0
        code, out = c.exec_run("nosuch")
        assert code in (126, 127), (code, out)
        e = client.api.exec_create(c.id, "cat", stdin=True)
        s = client.api.exec_start(e["Id"], socket=True)
        s._sock.sendall(b"through")
        s._sock.shutdown(1)
        got = b""
        while True:
            part = s._sock.recv(100)
            if not part:
                break
            got += part
        assert got[8:] == b"through", got
        i = client.api.exec_inspect(e["Id"])
        assert not i["Running"] and i["ExitCode"] == 0 and i["ContainerID"] == c.id, i
        c.pause()
        c.reload()
        assert c.status == "paused"
        raises(APIError, c.exec_run, "true")
        c.unpause()


@check
def archives():
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w") as t:
        for name, kind, data in (("dir", tarfile.DIRTYPE, b""), ("dir/file", tarfile.REGTYPE, b"text"), ("dir/link", tarfile.SYMTYPE, b"")):
            h = tarfile.TarInfo(name)
            h.type, h.size, h.mode, h.uid, h.linkname = kind, len(data), 0o750, 1000, "file" if kind == tarfile.SYMTYPE else ""
            t.addfile(h, io.BytesIO(data))
    for args in ({}, {"read_only": False, "user": "1000"}):
        with container(**args) as c:
            assert c.put_archive("/tmp", buf.getvalue())
            bits, stat = c.get_archive("/tmp/dir")
            assert stat["name"] == "dir" and stat["mode"] & 0o777 == 0o750, stat
            with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as t:
                got = {m.name: (m.type, m.mode & 0o7777, m.uid, m.linkname) for m in t}
                assert t.extractfile("dir/file").read() == b"text"
            assert got["dir/link"][3] == "file" and got["dir/file"][1:3] == (0o750, 1000), got
            assert {"Path": "/tmp/dir", "Kind": 1} in c.diff(), c.diff()
            raises(NotFound, c.get_archive, "/no/such")
            names = tarfile.open(fileobj=io.BytesIO(b"".join(c.export()))).getnames()
            assert "tmp/dir/file" in names and "bin/busybox" in names


@check
def stats_top():
    with container(mem_limit="32m") as c:
        s = c.stats(stream=False)
        assert s["memory_stats"]["limit"] == 32 << 20 and s["cpu_stats"]["cpu_usage"]["total_usage"] > 0 and s["pids_stats"]["current"] >= 1, s
        it = c.stats(stream=True, decode=True)
        a, b = next(it), next(it)
        assert a["read"] < b["read"] and b["id"] == c.id and b["precpu_stats"]["cpu_usage"]["total_usage"], (a, b)
        t = c.top()
        assert any("sleep 1000" in " ".join(p) for p in t["Processes"]), t
        assert c.top(ps_args="-o pid,comm")["Titles"] == ["PID", "COMMAND"]


@check
def events():
    got, done = [], threading.Event()
    stream = client.events(decode=True, filters={"label": "watched=yes"})

    def watch():
        for e in stream:
            got.append((e["Type"], e["Action"].split(":")[0]))
            if e["Action"] == "destroy":
                break
        done.set()

    threading.Thread(target=watch, daemon=True).start()
    with container("sleep 1000", labels={"watched": "yes"}, name="evt") as c:
        c.exec_run("true")
        c.rename("evt2")
        c.kill()
        c.wait()
    assert done.wait(20), got
    want = ["create", "start", "exec_create", "exec_start", "exec_die", "rename", "kill", "die", "destroy"]
    acts = [a for _, a in got]
    assert [a for a in acts if a in want] == want, acts
    past = [e["Action"] for e in client.events(decode=True, since=0, until=int(time.time()) + 1, filters={"container": "evt2", "event": "die"})]
    assert set(past) == {"die"}, past


@check
def wait_conditions():
    c = client.containers.create("busybox", "sh -c 'exit 9'", network_mode="none")
    result = []
    started = threading.Event()

    def wait():
        started.set()
        result.append(c.wait(condition="next-exit")["StatusCode"])

    t = threading.Thread(target=wait)
    t.start()
    started.wait()
    c.start()
    assert c.wait()["StatusCode"] == 9
    t.join(5) if result else None
    c.start()  # should the first wait have come late, it sees this exit
    t.join(20)
    assert result == [9], result
    c.wait()
    c.remove()
    with container() as c:
        raises((requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError), c.wait, timeout=1)


@check
def lists_filters_prune():
    with container(labels={"l": "1"}, name="one") as c:
        stopped = client.containers.create("busybox", "true", labels={"l": "1", "gone": "yes"}, name="two")
        names = lambda **kw: sorted(x.name for x in client.containers.list(**kw))
        assert names(filters={"label": "l=1"}) == ["one"]
        assert names(all=True, filters={"label": ["l"]}) == ["one", "two"]
        assert names(all=True, filters={"status": "created", "label": "l"}) == ["two"]
        assert names(all=True, filters={"ancestor": "busybox", "label": "l"}) == ["one", "two"]
        assert names(all=True, filters={"name": "^/?two$"}) == ["two"]
        assert names(all=True, limit=1) == ["two"]
        assert names(all=True, filters={"label": "l", "before": "two"}) == ["one"]
        pruned = client.containers.prune(filters={"label": "gone=yes"})
        assert pruned["ContainersDeleted"] == [stopped.id], pruned
        e = raises(APIError, client.containers.list, filters={"nosuch": "x"})
        assert e.status_code == 400 and "invalid filter" in e.explanation, e.explanation


@check
def images():
    repo = REGISTRY + "/sdk/app"
    image = client.images.get("busybox")
    assert image.tag(repo, "1") and image.tag(repo, "2")
    lines = [json.loads(l) for l in client.images.push(repo, tag="1").strip().splitlines()]
    assert not [l for l in lines if "error" in l] and any("aux" in l for l in lines), lines
    client.images.push(repo, tag="2")
    client.images.remove(repo + ":1")
    client.images.remove(repo + ":2")
    raises(ImageNotFound, client.images.get, repo + ":1")
    got = client.images.pull(repo, tag="1")
    assert got.tags and repo + ":1" in got.tags, got.tags
    assert {t for i in client.images.pull(repo, all_tags=True) for t in i.tags} >= {repo + ":1", repo + ":2"}
    assert client.images.list(name=repo) and client.images.list(filters={"reference": repo + ":2"})
    saved = b"".join(got.save(named=True))
    client.images.remove(repo + ":1")
    loaded = client.images.load(saved)
    assert any(repo + ":1" in i.tags for i in loaded), loaded
    assert got.history() and got.attrs["RootFS"]["Layers"]
    raises(NotFound, client.images.pull, repo, tag="none")
    e = raises(APIError, client.images.push, "Bad Name")
    assert e.status_code == 400, e
    with container() as c:
        c.exec_run("touch /made")
        made = c.commit(repository="sdk/made", tag="1", message="m", author="a", conf={"Cmd": ["ls", "/made"]})
        assert client.containers.run("sdk/made:1", remove=True, network_mode="none") == b"/made\n"
        e = raises(APIError, client.images.remove, c.image.id)
        assert e.status_code == 409, e
        client.images.remove(made.id)
    imported = client.images.load(saved)
    for t in ("1", "2"):
        client.images.remove(repo + ":" + t)
    assert "SpaceReclaimed" in client.images.prune(filters={"dangling": True})
    client.api.import_image_from_data(_tar("f", b"x"), repository="sdk/imported", tag="1")
    assert client.images.get("sdk/imported:1").attrs["RootFS"]["Layers"]
    client.images.remove("sdk/imported:1")


def _tar(name, data):
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode="w") as t:
        h = tarfile.TarInfo(name)
        h.size = len(data)
        t.addfile(h, io.BytesIO(data))
    return b.getvalue()


@check
def terminal_resize_update_rename():
    with container("sh", tty=True, stdin_open=True, name="term") as c:
        c.resize(33, 77)
        code, out = c.exec_run("sh -c 'until stty size </proc/1/fd/0 | grep \"33 77\"; do :; done'")
        assert code == 0 and out == b"33 77\n", out
        c.update(mem_limit="100m", memswap_limit=-1)
        c.rename("term2")
        c.reload()
        assert c.name == "term2" and c.attrs["HostConfig"]["Memory"] == 100 << 20
        c.restart(timeout=1)
        c.reload()
        assert c.status == "running"
        s = c.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        s._sock.sendall(b"echo o''k\n")
        got = b""
        while b"\nok" not in got:
            part = s._sock.recv(1000)
            assert part, got
            got += part


@check
def networking():
    with container("httpd -f -p 80", network_mode="bridge", ports={"80/tcp": ("127.0.0.1", None)}, extra_hosts={"db": "10.1.2.3"}, dns=["192.0.2.1"]) as c:
        c.reload()
        port = c.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        code, _ = c.exec_run("sh -c 'until wget -q -O - http://127.0.0.1/etc/passwd >/dev/null; do :; done'")
        assert requests.get("http://127.0.0.1:%s/etc/passwd" % port, timeout=10).status_code == 200
        assert c.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        code, out = c.exec_run("cat /etc/hosts /etc/resolv.conf")
        assert b"10.1.2.3\tdb" in out and b"nameserver 192.0.2.1" in out, out
        assert c.ports["80/tcp"][0]["HostPort"] == port
    assert {n.name for n in client.networks.list()} >= {"bridge", "host", "none"}


@check
def own_networks():
    pool = docker.types.IPAMPool(subnet="10.207.0.0/24", gateway="10.207.0.254")
    ipam = docker.types.IPAMConfig(pool_configs=[pool])
    net = client.networks.create("sdknet", driver="bridge", ipam=ipam, labels={"a": "b"}, check_duplicate=True)
    try:
        e = raises(APIError, client.networks.create, "sdknet", check_duplicate=True)
        assert e.status_code == 409, e
        assert [n.id for n in client.networks.list(names=["sdknet"], filters={"label": "a=b"})] == [net.id]
        assert net.attrs["IPAM"]["Config"][0]["Gateway"] == "10.207.0.254" and net.attrs["Labels"] == {"a": "b"}, net.attrs
        with container("sleep 1000", network="sdknet", network_mode=None) as c, container("sleep 1000") as d:
            e = raises(APIError, net.remove)
            assert e.status_code == 403, e
            e = raises(APIError, net.connect, d)
            assert e.status_code in (400, 403), e  # it has no network at all
        with container("sleep 1000", network="sdknet", network_mode=None) as c, container("sleep 1000", network_mode="bridge") as d:
            net.connect(d, aliases=["friend"], ipv4_address="10.207.0.77")
            net.reload()
            assert {x.id for x in net.containers} == {c.id, d.id}
            d.reload()
            assert d.attrs["NetworkSettings"]["Networks"]["sdknet"]["IPAddress"] == "10.207.0.77"
            assert c.exec_run("ping -c 1 -W 2 friend").exit_code == 0
            net.disconnect(d)
            assert c.exec_run("ping -c 1 -W 1 friend").exit_code != 0
            e = raises(APIError, net.disconnect, d)
            assert e.status_code == 404, e
    finally:
        net.remove()
    e = raises(APIError, client.networks.get, "sdknet")
    assert e.status_code == 404, e
    client.networks.create("sdkprune", labels={"prune": "me"})
    assert client.networks.prune(filters={"label": "prune=me"})["NetworksDeleted"] == ["sdkprune"]


failed = False
for f in checks:
    try:
        f()
        print("ok", f.__name__)
    except BaseException:
        failed = True
        print("FAIL", f.__name__)
        traceback.print_exc(file=sys.stdout)
    sys.stdout.flush()
sys.exit(failed)
