package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// step is one command and what must come of it. $N in args is the trimmed
// output of step N, counted from 0; $DIR a directory of the test's.
type step struct {
	client string // "" for both; docker refuses some of our flags itself
	since  int    // docker clients older than this word it otherwise
	args   string // split at spaces; '…' keeps spaces together
	input  string
	code   int
	stdout string // regular expression, "" for anything
	stderr string
}

// scenarios are what both clients must do alike. Every one cleans up after
// itself with the names it made.
var scenarios = map[string][]step{
	"hello from the built-in image": {
		{args: "run --rm caisson/hello", stdout: `Hello from Caisson`},
	},
	"exit code is the program's": {
		{args: "run --rm busybox sh -c 'exit 42'", code: 42},
		{args: "run --rm busybox true"},
	},
	"exit code of a signal": {
		{args: "run --rm --init busybox sh -c 'kill -9 $$'", code: 137},
		{args: "run --rm --init busybox sh -c 'kill -TERM $$'", code: 143},
	},
	"command not found is 127": {
		{args: "run --rm busybox nosuchcommand", code: 127, stderr: `exec: "nosuchcommand": executable file not found in \$PATH`},
		{args: "run --rm busybox /no/such/file", code: 127, stderr: `no such file or directory`},
	},
	"not executable is 126": {
		{args: "run --rm busybox /etc/passwd", code: 126, stderr: `permission denied`},
		{since: 23, args: "run --rm busybox /etc", code: 126},
	},
	"engine errors are 125": {
		{args: "run --rm nosuch.invalid:5000/image true", code: 125},
		{args: "run --rm --memory 1k busybox true", code: 125, stderr: `[Mm]emory`},
		{args: "run --rm --isolation nosuch busybox true", code: 125, stderr: `nosuch`},
	},
	"streams are kept apart": {
		{args: "run --rm busybox sh -c 'echo out; echo err >&2'", stdout: `^out\n$`, stderr: `^err\n$`},
	},
	"stdin reaches the program": {
		{args: "run --rm -i busybox cat", input: "one\ntwo\n", stdout: `^one\ntwo\n$`},
		{args: "run --rm -i busybox wc -c", input: strings.Repeat("x", 300000), stdout: `300000`},
	},
	"environment": {
		{args: "run --rm -e A=1 -e B busybox env", stdout: `A=1\n`},
		{args: "run --rm --env-file $DIR/env busybox env", stdout: `FROM_FILE=yes`},
		{args: "run --rm -h box busybox sh -c 'echo $HOSTNAME $HOME; hostname'", stdout: `^box /root\nbox\n$`},
	},
	"user by name, number and group": {
		{args: "run --rm -u tester busybox id", stdout: `uid=1000\(tester\) gid=1001\(tester\) groups=.*50\(staff\)`},
		{args: "run --rm -u 7:8 busybox id", stdout: `uid=7 gid=8`},
		{args: "run --rm -u nobodyhere busybox id", code: 125, stderr: `unable to find user nobodyhere`},
		{args: "run --rm -u tester --group-add 77 busybox id", stdout: `77`},
		{args: "run -d --name grp --group-add 77 busybox sleep 100"},
		{args: "exec grp id", stdout: `77`},
		{args: "rm -f grp"},
	},
	"working directory": {
		{args: "run --rm -w /made/here busybox pwd", stdout: `^/made/here\n$`},
	},
	"entrypoint": {
		{args: "run --rm --entrypoint echo busybox hi there", stdout: `^hi there\n$`},
	},
	"read-only root and tmpfs": {
		{args: "run --rm --read-only busybox touch /x", code: 1, stderr: `Read-only`},
		{args: "run --rm --read-only --tmpfs /scratch:size=64k busybox sh -c 'touch /scratch/x; mount | grep scratch'", stdout: `tmpfs on /scratch .*size=64k`},
	},
	"bind mounts": {
		{args: "run --rm -v $DIR:/mnt busybox cat /mnt/env", stdout: `FROM_FILE=yes`},
		{args: "run --rm -v $DIR:/mnt:ro busybox touch /mnt/x", code: 1, stderr: `Read-only`},
		{args: "run --rm --mount type=bind,source=/no/such/source,target=/mnt busybox true", code: 125, stderr: `bind source path does not exist`},
	},
	"volumes by name": {
		{args: "volume create --label tier=gold --label x voldata", stdout: `^voldata\n$`},
		{args: "volume create voldata", stdout: `^voldata\n$`}, // there it is
		{args: "volume create 'a b'", code: 1, stderr: `includes invalid characters for a local volume name`},
		{args: "volume create -d nosuch volx", code: 1, stderr: `plugin "nosuch" not found`},
		{args: "volume create -o size=10g -o what=ever volx", code: 1, stderr: `invalid option: "what"`},
		{args: "volume inspect -f '{{.Driver}} {{.Scope}} {{.Labels.tier}} {{.Options}}' voldata", stdout: `^local local gold map\[\]\n$`},
		{args: "volume inspect -f '{{.Mountpoint}}' voldata", stdout: `/volumes/voldata/_data\n$`},
		{args: "volume inspect nosuch", code: 1, stderr: `get nosuch: no such volume`},
		{args: "volume ls", stdout: `(?m)^DRIVER +VOLUME NAME$`},
		{args: "volume ls -q -f label=tier=gold", stdout: `^voldata\n$`},
		{args: "volume ls -q -f dangling=true -f name=voldat", stdout: `^voldata\n$`},
		{args: "volume ls -q -f label=tier=iron", stdout: `^$`},
		{args: "volume ls --format '{{.Name}}:{{.Label \"tier\"}}' -f name=^voldata$", stdout: `^voldata:gold\n$`},
		{args: "run --rm -v voldata:/d busybox sh -c 'echo kept >/d/file'"},
		{args: "run --rm -v voldata:/d:ro busybox sh -c 'cat /d/file; touch /d/x'", code: 1, stdout: `^kept\n$`, stderr: `Read-only file system`},
		{args: "run --rm --mount type=volume,src=voldata,dst=/d,readonly busybox sh -c 'cat /d/file'", stdout: `^kept\n$`},
		{args: "create --name voluser -v voldata:/d busybox"},
		{args: "volume ls -q -f dangling=true -f name=^voldata$", stdout: `^$`},
		{args: "inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.Driver}} {{.Destination}} {{.RW}}{{end}}' voluser", stdout: `^volume voldata local /d true\n$`},
		{args: "volume rm voldata", code: 1, stderr: `remove voldata: volume is in use - \[[0-9a-f]{64}\]`},
		{args: "run --rm --volumes-from voluser:ro busybox cat /d/file", stdout: `^kept\n$`},
		{args: "rm -v voluser"}, // which is of anonymous ones
		{args: "volume rm voldata", stdout: `^voldata\n$`},
		{args: "volume rm voldata", code: 1, stderr: `no such volume`},
		{args: "volume rm -f voldata"},
	},
	"anonymous volumes": {
		{args: "run -d --name anon -v /d busybox sleep 100"},
		{args: "inspect -f '{{range .Mounts}}{{.Name}}{{end}}' anon", stdout: `^[0-9a-f]{64}\n$`},
		{args: "volume inspect -f '{{json .Labels}}' $1", stdout: `com.docker.volume.anonymous`},
		{args: "rm -f anon"},
		{args: "volume ls -q -f name=$1", stdout: `[0-9a-f]`},
		{args: "volume create volnamed"},
		{args: "volume prune -f", stdout: `Deleted Volumes:\n(.*\n)*Total reclaimed space: `},
		{args: "volume ls -q -f name=$1", stdout: `^$`},
		{args: "volume ls -q -f name=volnamed", stdout: `^volnamed\n$`},
		{args: "volume prune -af --filter label=nosuch", stdout: `^Total`},
		{args: "volume prune -af", stdout: `volnamed`},
		{args: "run --rm --name anon -v /d busybox true"},
		{args: "volume ls -q -f dangling=true", stdout: `^$`},
		{args: "create --name anon -v /d busybox"},
		{args: "rm -v anon"},
		{args: "volume ls -q -f dangling=true", stdout: `^$`},
	},
	"volumes are filled from the image": {
		{args: "run --rm -v volcopy:/etc busybox cat /etc/group", stdout: `staff`},
		{args: "run --rm -v volcopy:/d busybox cat /d/group", stdout: `staff`},
		{args: "run --rm -v volempty:/etc:nocopy busybox ls /etc/passwd", code: 1},
		{args: "run --rm --mount type=volume,src=volempty,dst=/etc,volume-nocopy busybox ls /etc/passwd", code: 1},
		{args: "volume rm volcopy volempty"},
	},
	"volumes that are mounts": {
		{args: "volume create -o type=tmpfs -o device=tmpfs -o o=size=128k,uid=7 voltmp"},
		{args: "volume inspect -f '{{.Options.o}}' voltmp", stdout: `^size=128k,uid=7\n$`},
		{args: "run -d --name voltmp1 -v voltmp:/d busybox sh -c 'echo shared >/d/f; sleep 100'"},
		{args: "run --rm -v voltmp:/d busybox sh -c 'until cat /d/f 2>/dev/null; do :; done; stat -c %u /d; grep \" /d \" /proc/mounts'", stdout: `^shared\n7\ntmpfs /d tmpfs .*size=128k`},
		{args: "rm -f voltmp1"},
		{args: "run --rm -v voltmp:/d busybox ls /d", stdout: `^$`}, // memory, gone with its last user
		{args: "run --rm -v $DIR:/d busybox sh -c 'mkdir /d/sub; echo host >/d/sub/file'"},
		{args: "volume create -o type=none -o o=bind -o device=$DIR/sub volbind"},
		{args: "run --rm -v volbind:/d busybox cat /d/file", stdout: `^host\n$`},
		{args: "volume rm volbind"},
		{args: "run --rm -v $DIR:/d busybox cat /d/sub/file", stdout: `^host\n$`}, // what was mounted is not ours to delete
		{args: "run --rm --mount type=volume,src=volopt,dst=/d,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=$DIR/nosuch busybox true", code: 127, stderr: `no such file or directory`},
		{args: "volume create -o type=none -o device=/x volx", code: 1, stderr: `mounts nothing without o=bind`},
		{args: "volume create -o type=tmpfs volx", code: 1, stderr: `missing required option: "device"`},
		{args: "volume rm voltmp volopt"},
	},
	"parts of volumes": {
		{args: "run --rm -v volpart:/d busybox sh -c 'mkdir -p /d/a/b; echo part >/d/a/b/file; ln -s /etc /d/out; ln -s a/b /d/in'"},
		{since: 26, args: "run --rm --mount type=volume,src=volpart,dst=/d,volume-subpath=a/b busybox sh -c 'cat /d/file; echo new >/d/new'", stdout: `^part\n$`},
		{since: 26, args: "run --rm --mount type=volume,src=volpart,dst=/d,volume-subpath=in busybox ls /d", stdout: `^file\nnew\n$`},
		{since: 26, args: "run --rm --mount type=volume,src=volpart,dst=/file,volume-subpath=a/b/file,readonly busybox cat /file", stdout: `^part\n$`},
		{since: 26, args: "run --rm --mount type=volume,src=volpart,dst=/d,volume-subpath=out busybox ls /d", code: 127, stderr: `subpath out: no such file or directory`},
		{since: 26, args: "run --rm --mount type=volume,src=volpart,dst=/d,volume-subpath=../x busybox true", code: 125, stderr: `leads out`},
		{args: "volume rm volpart"},
	},
	"images as mounts": {
		{since: 28, args: "run -d --name imgmount --mount type=image,src=busybox,dst=/img busybox sh -c 'cat /img/etc/group; touch /img/x; sleep 100'"},
		{since: 28, args: "inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.RW}}{{end}}' imgmount", stdout: `^image busybox false\n$`},
		{since: 28, args: "exec imgmount cat /img/etc/group", stdout: `staff`},
		{since: 28, args: "exec imgmount touch /img/x", code: 1, stderr: `Read-only file system`},
		{since: 28, args: "rm -f imgmount"},
		{since: 28, args: "run --rm --mount type=image,src=busybox,dst=/etc2,image-subpath=etc busybox cat /etc2/group", stdout: `staff`},
		{since: 28, args: "run --rm --mount type=image,src=nosuch,dst=/img busybox true", code: 125, stderr: `No such image: nosuch`},
	},
	"volumes of tmpfs and by options": {
		{args: "run --rm --mount type=tmpfs,dst=/t,tmpfs-size=64k,tmpfs-mode=700 busybox grep ' /t ' /proc/mounts", stdout: `size=64k,mode=700`},
		{args: "run --rm -v volz:/d:z,rw busybox grep ' /d ' /proc/mounts", stdout: ` rw,`},
		{args: "run --rm -v volz:/d:wrong busybox true", code: 125, stderr: `invalid mode`},
		{args: "run --rm -v volz:/d -v volz:/d busybox true"},
		{args: "run --rm -v volz:/d -v voly:/d busybox true", code: 125, stderr: `Duplicate mount point: /d`},
		{args: "volume rm volz"},
	},
	"events of volumes": {
		{args: "volume create volevents"},
		{args: "run --rm --name volev -v volevents:/d:ro busybox true"},
		{args: "volume rm volevents"},
		{args: "run --rm busybox sleep 1"}, // docker means the second that began by 0s
		{args: "events --since 1m --until 0s --filter volume=volevents --format '{{.Action}} {{index .Actor.Attributes \"driver\"}} {{index .Actor.Attributes \"read/write\"}}'",
			stdout: `(?s)create local <?n?o? ?v?a?l?u?e?>?\nmount local false\nunmount local <?n?o? ?v?a?l?u?e?>?\ndestroy local`},
	},
	"disk usage of volumes": {
		{args: "run --rm -v voldf:/d busybox dd if=/dev/zero of=/d/file bs=1M count=2"},
		{args: "system df --format '{{.Type}} {{.TotalCount}} {{.Size}}'", stdout: `Local Volumes \d+ \d+\.?\d*MB`},
		{args: "system df -v", stdout: `voldf +0 +2\.\d+MB`},
		{client: "caisson", args: "system prune -f --volumes", stdout: `Total`},
		{args: "volume rm voldf"},
	},
	"backup of a volume": {
		{client: "caisson", args: "run --rm -v volback:/d busybox sh -c 'echo precious >/d/file; chown 7:8 /d /d/file; chmod 700 /d'"},
		{client: "caisson", args: "volume export volback -o $DIR/back.tar"},
		{client: "caisson", args: "volume import volback $DIR/back.tar", code: 1, stderr: `volume volback is not empty`},
		{client: "caisson", args: "volume rm volback"},
		{client: "caisson", args: "volume import volback $DIR/back.tar"},
		{client: "caisson", args: "run --rm -v volback:/d busybox sh -c 'cat /d/file; stat -c %u:%g:%a /d /d/file'", stdout: `^precious\n7:8:700\n7:8:644\n$`},
		{client: "caisson", args: "volume import volnew $DIR/env", code: 1, stderr: `read archive`},
		{client: "caisson", args: "volume inspect volnew", code: 1, stderr: `no such volume`},
		{client: "caisson", args: "volume rm volback"},
	},
	"health checks": {
		{args: "run -d --name hc --health-cmd 'test -e /tmp/good && echo fine' --health-interval 100ms --health-retries 2 busybox sh -c 'mkdir -p /tmp; sleep 1000'"},
		{args: "ps -f name=hc --format {{.Status}}", stdout: `^Up .* \((health: starting|unhealthy)\)\n$`},
		{args: "exec hc sh -c 'sleep 2; touch /tmp/good; sleep 1'"},
		{args: "ps -f health=healthy --format {{.Names}}", stdout: `(?m)^hc$`},
		{args: "ps -f name=hc --format {{.Status}}", stdout: `^Up .* \(healthy\)\n$`},
		{args: "inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{(index .State.Health.Log 0).Output}}' hc", stdout: `^healthy 0 `},
		{args: "exec hc sleep 1"}, // docker means the second that began by 0s
		{args: "events --since 2m --until 0s --filter container=$0 --filter event=health_status --format {{.Action}}", stdout: `^health_status: unhealthy\nhealth_status: healthy\n$`},
		{args: "exec hc sh -c 'rm /tmp/good; sleep 2'"},
		{args: "ps -f health=unhealthy --format {{.Names}}", stdout: `(?m)^hc$`},
		{args: "rm -f hc"},
		{args: "run -d --name hc --health-cmd 'sleep 100' --health-interval 50ms --health-timeout 100ms --health-retries 1 busybox sleep 1000"},
		{args: "exec hc usleep 700000"},
		{args: "inspect -f '{{.State.Health.Status}} {{(index .State.Health.Log 0).ExitCode}} {{(index .State.Health.Log 0).Output}}' hc", stdout: `^unhealthy -1 Health check exceeded timeout \(100ms\)`},
		{args: "rm -f hc"},
		{args: "run -d --name hc --no-healthcheck busybox sleep 1000"},
		{args: "inspect -f '{{json .State.Health}} {{json .Config.Healthcheck.Test}}' hc", stdout: `^(null|<nil>) \["NONE"\]\n$`},
		{args: "rm -f hc"},
		{args: "run -d --name hc --restart-unhealthy --stop-timeout 0 --health-cmd false --health-interval 50ms --health-retries 1 busybox sleep 1000", client: "caisson"},
		{args: "wait hc", client: "caisson", stdout: `^137\n$`},
		{args: "inspect -f '{{index .Config.Labels \"caisson.restart-unhealthy\"}}' hc", client: "caisson", stdout: `^true\n$`},
		{args: "rm -f hc", client: "caisson"},
	},
	"restart policies": {
		{args: "run -d --name rp --restart on-failure:2 busybox sh -c 'exit 3'"},
		{args: "wait rp", stdout: `^3\n$`},
		{args: "inspect -f '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' rp", stdout: `^2 exited 3\n$`},
		{args: "update --restart always rp", stdout: `rp`},
		{args: "inspect -f '{{.HostConfig.RestartPolicy.Name}}' rp", stdout: `^always\n$`},
		{args: "start rp"},
		{args: "stop -t 0 rp"},
		{args: "inspect -f '{{.State.Status}}' rp", stdout: `^exited\n$`},
		{args: "rm rp"},
		{args: "run --rm --restart always busybox true", code: 125, stderr: `[Cc]onflicting options|cannot be used`},
	},
	"volumes": {
		{args: "run --rm -v vol1:/data busybox sh -c 'echo kept > /data/f'"},
		{args: "run --rm -v vol1:/data busybox cat /data/f", stdout: `kept`},
	},
	"limits are in the cgroup": {
		{args: "run --rm -m 64m --cpus 0.5 --pids-limit 77 busybox sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true'", stdout: `(?s)67108864.*77.*50000`},
		{args: "run --rm --ulimit nofile=123:456 busybox sh -c 'ulimit -n; ulimit -Hn'", stdout: `^123\n456\n$`},
	},
	"out of memory is told": {
		{args: "run --name oom -m 16m busybox tail /dev/zero", code: 137},
		{args: "inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' oom", stdout: `^true 137`},
		{args: "rm oom"},
	},
	"default capabilities": {
		{args: "run --rm busybox grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status", stdout: `(?s)CapEff:\s+00000000a80425fb.*CapBnd:\s+00000000a80425fb.*Seccomp:\s+2`},
		{args: "run --rm --cap-drop ALL --cap-add NET_RAW busybox grep CapEff /proc/self/status", stdout: `0000000000002000`},
		{args: "run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status", stdout: `1`},
		{args: "run --rm --security-opt seccomp=unconfined busybox grep '^Seccomp:' /proc/self/status", stdout: `0`},
		{args: "run --rm --privileged busybox grep -E '^Seccomp:' /proc/self/status", stdout: `0`},
	},
	"network none, host and container": {
		{args: "run --rm --network none busybox ls /sys/class/net", stdout: `^lo\n$`},
		{args: "run -d --name netdonor busybox sleep 100"},
		{args: "run --rm --network container:netdonor busybox hostname -i"},
		{args: "exec netdonor hostname -i", stdout: `.`},
		{args: "rm -f netdonor"},
	},
	"hosts and resolv.conf": {
		{args: "run --rm --add-host db:10.1.2.3 busybox cat /etc/hosts", stdout: `10\.1\.2\.3\s+db`},
		{args: "run --rm --dns 192.0.2.53 --dns-search example.test busybox cat /etc/resolv.conf", stdout: `(?s)192\.0\.2\.53.*|example\.test`},
	},
	"exec": {
		{args: "run -d --name ex busybox sleep 100"},
		{args: "exec ex sh -c 'exit 7'", code: 7},
		{args: "exec ex sh -c 'for i in 1 2 3; do echo $i; done; exit 9'", code: 9, stdout: `^1\n2\n3\n$`},
		{args: "exec -i ex cat", input: "in", stdout: `^in$`},
		{args: "exec -u tester -w /tmp -e X=y ex sh -c 'id -un; pwd; echo $X'", stdout: `^tester\n/tmp\ny\n$`},
		{args: "exec ex nosuchcommand", code: 127},
		{args: "exec ex /etc/passwd", code: 126},
		{args: "exec -d ex touch /marker"},
		{args: "kill ex"},
		{args: "wait ex", stdout: `137`},
		{args: "exec ex true", code: 1, stderr: `is not running`},
		{args: "rm ex"},
	},
	"logs": {
		{args: "run --name lg busybox sh -c 'echo a; echo b >&2; usleep 100000; echo c'"},
		{args: "logs lg", stdout: `^a\nc\n$`, stderr: `^b\n$`},
		{args: "logs --tail 1 lg", stdout: `^c\n$`},
		{args: "logs -t lg", stdout: `\d{4}-\d\d-\d\dT.*Z a\n`},
		{args: "rm lg"},
	},
	"stop, start, restart, kill, wait": {
		{args: "run -d --name life --init busybox sleep 100"},
		{args: "stop -t 5 life", stdout: `life`},
		{args: "inspect -f '{{.State.Status}} {{.State.ExitCode}}' life", stdout: `exited 143`},
		{args: "start life"},
		{args: "restart -t 1 life"},
		{args: "inspect -f '{{.State.Running}}' life", stdout: `true`},
		{args: "kill -s KILL life"},
		{args: "wait life", stdout: `137`},
		{args: "rm life"},
	},
	"pause": {
		{args: "run -d --name ps busybox sleep 100"},
		{args: "pause ps"},
		{args: "inspect -f '{{.State.Status}}' ps", stdout: `paused`},
		{args: "exec ps true", code: 1, stderr: `paused`},
		{args: "unpause ps"},
		{args: "rm -f ps"},
	},
	"names conflict": {
		{args: "create --name dup busybox true"},
		{args: "create --name dup busybox true", code: 1, stderr: `is already in use by container`},
		{args: "rename dup dup2"},
		{args: "rm dup2"},
		{args: "rm dup2", code: 1, stderr: `No such container: dup2`},
	},
	"removing what runs": {
		{args: "run -d --name rr busybox sleep 100"},
		{args: "rm rr", code: 1, stderr: `cannot remove container.*running`},
		{args: "rm -f rr"},
	},
	"copy": {
		{args: "create --name cpc busybox true"},
		{args: "cp $DIR/env cpc:/tmp/in"},
		{args: "cp cpc:/tmp/in $DIR/back"},
		{args: "cp cpc:/etc/passwd -", stdout: `root:x:0:0`},
		{since: 23, args: "cp cpc:/no/such/file $DIR/x", code: 1, stderr: `[Cc]ould not find the file`},
		{args: "diff cpc", stdout: `A /tmp/in`},
		{args: "rm cpc"},
	},
	"commit, history, tag, rmi": {
		{args: "run --name cm busybox sh -c 'echo new > /made; rm /etc/group'"},
		{args: "commit -m note -c 'CMD [\"cat\", \"/made\"]' cm made:1", stdout: `sha256:`},
		{args: "rm cm"},
		{args: "run --rm made:1", stdout: `^new\n$`},
		{args: "run --rm made:1 ls /etc/group", code: 1},
		{args: "history -q made:1"},
		{args: "tag made:1 other:2"},
		{args: "rmi made:1", stdout: `Untagged: made:1`},
		{args: "run --rm other:2", stdout: `new`},
		{args: "rmi other:2", stdout: `Deleted: sha256:`},
	},
	"an image in use stays": {
		{args: "create --name base1 busybox true"},
		{args: "commit base1 inuse:1"},
		{args: "rm base1"},
		{args: "create --name user1 inuse:1 true"},
		{args: "rmi inuse:1", code: 1, stderr: `conflict`},
		{args: "rm user1"},
		{args: "rmi inuse:1"},
	},
	"export and import": {
		{args: "create --name exp busybox true"},
		{args: "export -o $DIR/exp.tar exp"},
		{args: "rm exp"},
		{args: "import -c 'CMD [\"echo\",\"imported\"]' $DIR/exp.tar imported:1", stdout: `sha256:`},
		{args: "run --rm imported:1", stdout: `imported`},
		{args: "rmi imported:1"},
	},
	"save and load": {
		{args: "tag busybox saved:1"},
		{args: "save -o $DIR/saved.tar saved:1"},
		{args: "rmi saved:1"},
		{args: "load -i $DIR/saved.tar", stdout: `Loaded image.*saved:1`},
		{args: "run --rm saved:1 true"},
		{args: "rmi saved:1"},
	},
	"ps, filters and formats": {
		{args: "run -d --name psx -l team=blue busybox sleep 100"},
		{args: "ps --format '{{.Names}} {{.Image}} {{.Status}}' --filter name=psx", stdout: `psx busybox Up`},
		{args: "ps -q --filter label=team=blue", stdout: `^[0-9a-f]{12}\n$`},
		{args: "ps -q --filter label=team=red", stdout: `^$`},
		{args: "rm -f psx"},
	},
	"top, stats, port, update": {
		{args: "run -d --name tsp -p 127.0.0.1::80 busybox sleep 100"},
		{args: "top tsp", stdout: `sleep 100`},
		{args: "stats --no-stream tsp", stdout: `tsp`},
		{args: "port tsp", stdout: `80/tcp -> 127\.0\.0\.1:\d+`},
		{args: "update -m 128m --memory-swap -1 tsp"},
		{args: "inspect -f '{{.HostConfig.Memory}}' tsp", stdout: `134217728`},
		{args: "rm -f tsp"},
	},
	"cidfile": {
		{args: "run --rm --cidfile $DIR/cid busybox true"},
		{args: "run --rm --cidfile $DIR/cid busybox true", code: 125, stderr: `[Cc]ontainer ID file found`},
	},
	"info, version, df": {
		{args: "info --format '{{.ServerVersion}} {{.OSType}} {{.CgroupVersion}}'", stdout: `linux [12]`},
		{args: "version --format '{{.Server.Version}}'", stdout: `.`},
		{args: "system df", stdout: `Images`},
	},
	"prune": {
		{args: "create -l gone=yes busybox true"},
		{args: "container prune -f --filter label=gone=yes", stdout: `Deleted Containers`},
	},
	"user namespace": {
		{client: "caisson", args: "run --rm --userns private busybox cat /proc/self/uid_map", stdout: `^\s+0\s+[1-9]`},
		{client: "caisson", args: "run --rm --userns private -v uvol:/data busybox sh -c 'touch /data/f && stat -c %u /data/f'", stdout: `^0\n$`},
		{args: "run --rm -v uvol:/data busybox sh -c 'touch /data/f; stat -c %u /data/f'", stdout: `^0\n$`},
	},
	"what is missing is named, and no image pulled for it": {
		{args: "run --rm --volumes-from nope busybox true", code: 125, stderr: `^[a-z]+: Error response from daemon: No such container: nope`},
		{args: "run --rm --ipc container:nope busybox true", code: 125, stderr: `^[a-z]+: Error response from daemon: No such container: nope`},
		{args: "create --name missing --user nosuch busybox true"},
		{args: "start missing", code: 1, stderr: `unable to find user nosuch: no matching entries in passwd file\n`},
		{args: "rm missing"},
	},
	"wishes that this host cannot fulfil": {
		{args: "run --rm --cpuset-cpus 4000 busybox true", code: 125, stderr: `Requested CPUs are not available - requested 4000, available: 0`},
		{args: "run --rm --pids-limit 2 busybox true", code: 125, stderr: `a limit of 2 processes is too small`},
		{args: "run --rm --ip 1.2.3.4 busybox true", code: 125, stderr: `user specified IP address is supported on user defined networks only`},
	},
	"hardware address": {
		{args: "run --rm --mac-address 02:42:ac:11:7f:09 busybox cat /sys/class/net/eth0/address", stdout: `^02:42:ac:11:7f:09\n$`},
	},
	"devices of the host": {
		{args: "run --rm --device /dev/zero:/dev/mine:r busybox sh -c 'head -c 3 /dev/mine | wc -c'", stdout: `3`},
	},
	"device nodes are of no use": {
		{args: "run --rm busybox sh -c 'mknod /tmp/d b 7 0 && cat /tmp/d'", code: 1, stderr: `[Oo]peration not permitted`},
	},
}

func TestScenarios(t *testing.T) {
	for _, client := range []string{"caisson", "docker"} {
		harness.Run(t, client, func(t *testing.T) {
			t.Parallel()
			harness.Need(t, pathOf(t, client))
			e := harness.Start(t)
			e.Load(testimage.Busybox(t, testimage.Config{}))
			version := dockerMajor()
			for name, steps := range scenarios {
				harness.Run(t, name, func(t *testing.T) { play(t, e, client, version, steps) })
			}
		})
	}
}

// pathOf is what must be on PATH for a client: ours is always built.
func pathOf(t *testing.T, client string) string {
	if client == "caisson" {
		return filepath.Join(harness.Bin(t), client)
	}
	return client
}

// dockerMajor is the major version of the docker client, 0 if there is none.
func dockerMajor() (major int) {
	out, _ := exec.Command("docker", "--version").Output()
	_, _ = fmt.Sscanf(string(out), "Docker version %d.", &major)
	return major
}

func play(t *testing.T, e *harness.Engine, client string, version int, steps []step) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "env"), []byte("FROM_FILE=yes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out []string
	for i, s := range steps {
		if s.client != "" && s.client != client || client == "docker" && version < s.since {
			out = append(out, "")
			continue
		}
		args := words(s.args)
		for j := range args {
			args[j] = strings.ReplaceAll(args[j], "$DIR", dir)
			for n, o := range out {
				args[j] = strings.ReplaceAll(args[j], fmt.Sprintf("$%d", n), strings.TrimSpace(o))
			}
		}
		r := e.Run(client, s.input, args...)
		out = append(out, r.Stdout)
		bad := r.Code != s.code || !matches(s.stdout, r.Stdout) || !matches(s.stderr, r.Stderr)
		if bad {
			t.Errorf("step %d: %s %s\nwant exit %d stdout %q stderr %q\n got %v", i, client, strings.Join(args, " "), s.code, s.stdout, s.stderr, r)
			cleanup(e, steps)
			return
		}
	}
}

// cleanup removes the containers that a scenario which failed has named.
func cleanup(e *harness.Engine, steps []step) {
	for _, s := range steps {
		args := words(s.args)
		for i, a := range args {
			if a == "--name" {
				e.Caisson("rm", "-f", args[i+1])
			}
		}
	}
}

func matches(pattern, s string) bool {
	return pattern == "" || regexp.MustCompile(pattern).MatchString(s)
}

// words splits a command line at spaces; single quotes keep them together.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}
