package cli

import (
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// networkScenarios are what both clients must do alike with networks.
var networkScenarios = map[string][]step{
	"the life of a network": {
		{args: "network create --label a=b --label c=d life", stdout: `^[0-9a-f]{64}\n$`},
		{args: "network ls --filter name=life --format '{{.ID}} {{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}'", stdout: `^[0-9a-f]{12} life bridge local (a=b,c=d|c=d,a=b)\n$`},
		{args: "network ls -q --no-trunc --filter label=a=b", stdout: `^[0-9a-f]{64}\n$`},
		{args: "network ls -q --filter label=a=x", stdout: `^$`},
		{args: "network ls --filter type=builtin --format '{{.Name}}'", stdout: `(?s)^bridge\nhost\nnone\n$`},
		{args: "network inspect -f '{{.Name}} {{.Driver}} {{.Internal}} {{len .IPAM.Config}} {{len .Containers}}' life", stdout: `^life bridge false 1 0\n$`},
		{args: "network inspect $0 nosuch", code: 1, stdout: `"Name": "life"`, stderr: `network nosuch not found`},
		{args: "network create life", code: 1, stderr: `network with name life already exists`},
		{args: "network rm life nosuch", code: 1, stdout: `^life\n$`, stderr: `network nosuch not found`},
		{since: 24, args: "network rm -f nosuch"},
		{args: "network ls -q --filter name=life", stdout: `^$`},
	},
	"what cannot be created or removed": {
		{args: "network create -o com.docker.network.bridge.name=lo nm", code: 1, stderr: `interface of this name`},
		{args: "network create bridge", code: 1, stderr: `operation is not permitted on predefined bridge network`},
		{args: "network create -d nosuch drv", code: 1, stderr: `nosuch`},
		{args: "network create --subnet 10.201.0.0/24 --gateway 10.9.9.9 gw", code: 1},
		{args: "network create -o com.docker.network.driver.mtu=x mtu", code: 1, stderr: `mtu`},
		{args: "network create 'a b'", code: 1},
		{args: "network rm bridge", code: 1, stderr: `bridge is a pre-defined network and cannot be removed`},
		{args: "network create --subnet 10.201.0.0/24 over1"},
		{args: "network create --subnet 10.201.0.128/25 over2", code: 1, stderr: `[Pp]ool overlaps with other one on this address space`},
		{args: "run -d --name holder --network over1 busybox sleep 1000"},
		{args: "network rm over1", code: 1, stderr: `has active endpoints`},
		{args: "rm -f holder"},
		{args: "network rm over1"},
	},
	"containers find each other": {
		{args: "network create find"},
		{args: "run -d --name web --network find --network-alias www --network-alias shared busybox httpd -f -h /etc"},
		{args: "run -d --name web2 --network find --network-alias shared busybox sleep 1000"},
		{args: "run --rm --network find busybox wget -qO- http://web/hostname", stdout: `.`},
		{args: "run --rm --network find busybox wget -qO- http://www/hostname", stdout: `.`},
		{args: "run --rm --network find busybox nslookup -type=a shared", stdout: `(?s)Address: .*Address: `},
		{args: "run --rm busybox ping -c 1 -W 1 web", code: 1},
		{args: "exec web2 ping -c 1 -W 2 web"},
		{args: "rename web renamed"},
		{args: "exec web2 ping -c 1 -W 2 renamed"},
		{args: "inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.Aliases}} {{.IPPrefixLen}}{{end}}' renamed", stdout: `^find \[www shared\] \d+\n$`},
		{args: "ps --filter network=find --format '{{.Names}} {{.Networks}}'", stdout: `^web2 find\nrenamed find\n$`},
		{args: "network inspect -f '{{range .Containers}}{{.Name}} {{end}}' find", stdout: `^(renamed web2|web2 renamed) \n$`},
		{args: "rm -f renamed web2"},
		{args: "network rm find"},
	},
	"name server at 127.0.0.11": {
		{args: "network create named"},
		{args: "run --rm --network named busybox cat /etc/resolv.conf", stdout: `(?s)^nameserver 127.0.0.11\n.*ndots:0`},
		{args: "network rm named"},
	},
	"static addresses": {
		{args: "network create --subnet 10.202.0.0/24 --ip-range 10.202.0.128/30 --gateway 10.202.0.254 --aux-address other=10.202.0.129 --ipv6 --subnet fd12:3456::/64 static"},
		{args: "run --rm --network static --ip 10.202.0.9 --ip6 fd12:3456::99 busybox ip addr show eth0", stdout: `(?s)10\.202\.0\.9/24.*fd12:3456::99/64`},
		{args: "run --rm --network static busybox ip route", stdout: `default via 10\.202\.0\.254`},
		{args: "run -d --name st1 --network static --ip 10.202.0.7 --mac-address 02:00:00:00:00:07 busybox sleep 1000"},
		{args: "inspect -f '{{.NetworkSettings.Networks.static.IPAddress}} {{.NetworkSettings.Networks.static.MacAddress}} {{.NetworkSettings.Networks.static.IPAMConfig.IPv4Address}}' st1", stdout: `^10\.202\.0\.7 02:00:00:00:00:07 10\.202\.0\.7\n$`},
		{args: "run --rm --network static --ip 10.202.0.7 busybox true", code: 125, stderr: `10\.202\.0\.7 is already in use`},
		{args: "run --rm --network static --ip 10.203.0.7 busybox true", code: 125, stderr: `no configured subnet`},
		{args: "run -d --name st2 --network static busybox sleep 1000"},
		{args: "inspect -f '{{.NetworkSettings.Networks.static.IPAddress}}' st2", stdout: `^10\.202\.0\.1(28|30|31)\n$`},
		{args: "rm -f st1 st2"},
		{args: "network rm static"},
		{args: "network create auto"},
		{args: "run --rm --network auto --ip 172.18.0.9 busybox true", code: 125, stderr: `user configured subnets`},
		{args: "network rm auto"},
	},
	"connect and disconnect while it runs": {
		{args: "network create one"},
		{args: "network create --internal two"},
		{args: "run -d --name roam --network one busybox sleep 1000"},
		{args: "run -d --name peer --network two busybox sleep 1000"},
		{args: "exec roam ping -c 1 -W 1 peer", code: 1},
		{args: "exec roam sh -c 'echo 192.0.2.1 mine >>/etc/hosts'"},
		{args: "network connect --alias rover two roam"},
		{args: "exec roam cat /etc/hosts", stdout: `(?s)192\.0\.2\.1 mine.*\d+\t[0-9a-f]{12}\n$`},
		{args: "exec roam ping -c 1 -W 2 peer"},
		{args: "exec peer ping -c 1 -W 2 rover"},
		{args: "exec roam ip route", stdout: `default via \S+ dev eth0`},
		{args: "network connect two roam", code: 1, stderr: `already exists in network two`},
		{args: "network disconnect one roam"},
		{args: "exec roam ip route", stdout: `^\S+/\d+ dev eth1 [^\n]*\n$`},
		{args: "network disconnect one roam", code: 1, stderr: `is not connected to`},
		{args: "network connect one roam"},
		{args: "exec roam ip route", stdout: `default via \S+ dev eth0`},
		{args: "restart -t 0 roam"},
		{args: "exec roam ping -c 1 -W 2 peer"},
		{args: "network disconnect -f two roam"},
		{args: "exec peer ping -c 1 -W 1 rover", code: 1},
		{args: "network connect host roam", code: 1, stderr: `host network`},
		{args: "network connect nosuch roam", code: 1, stderr: `network nosuch not found`},
		{args: "network connect one nosuch", code: 1, stderr: `No such container: nosuch`},
		{args: "rm -f roam peer"},
		{args: "network rm one two"},
	},
	"a container that does not run is connected": {
		{args: "network create stopped"},
		{args: "create --name later busybox sh -c 'ls /sys/class/net; sleep 1000'"},
		{args: "network connect stopped later"},
		{args: "inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' later", stdout: `^bridge stopped \n$`},
		{args: "start later"},
		{args: "exec later ls /sys/class/net", stdout: `(?s)eth0.*eth1`},
		{args: "stop -t 0 later"},
		{args: "network disconnect bridge later"},
		{args: "start later"},
		{args: "exec later ls /sys/class/net", stdout: `^eth0\nlo\n$`},
		{args: "network rm stopped", code: 1, stderr: `has active endpoints`},
		{args: "rm -f later"},
		{args: "network rm stopped"},
	},
	"several networks at once": {
		{args: "network create many1"},
		{args: "network create many2"},
		{since: 26, args: "run -d --name multi --network name=many1,alias=first --network name=many2,alias=second,gw-priority=1 busybox sleep 1000"},
		{since: 26, args: "exec multi ip route", stdout: `default via \S+ dev eth1`},
		{since: 26, args: "run --rm --network many1 busybox ping -c 1 -W 2 first"},
		{since: 26, args: "run --rm --network many2 busybox ping -c 1 -W 2 second"},
		{since: 26, args: "run --rm --network many2 busybox ping -c 1 -W 2 first", code: 1},
		{since: 26, args: "rm -f multi"},
		{args: "network rm many1 many2"},
	},
	"published ports": {
		{args: "network create pubs"},
		{args: "run -d --name serves --network pubs -p 127.0.0.1:18433:80 busybox httpd -f -h /etc"},
		{args: "port serves", stdout: `80/tcp -> 127\.0\.0\.1:18433`},
		{args: "run --rm --network pubs -p 127.0.0.1:18433:80 busybox true", code: 125, stderr: `port is already allocated \(by container serves\)`},
		{args: "rm -f serves"},
		{args: "network rm pubs"},
	},
	"published ports move with the networks": {
		{args: "network create pub"},
		{args: "run -d --name served --network pub -p 127.0.0.1:18431:80 busybox httpd -f -h /etc"},
		{args: "run --rm --network host busybox wget -qO- http://127.0.0.1:18431/hostname", stdout: `.`},
		{args: "run --rm --network pub -p 127.0.0.1:18431:80 busybox true", code: 125, stderr: `port is already allocated \(by container served\)`},
		{args: "network create --internal inside"},
		{args: "network connect inside served"},
		{args: "network disconnect pub served"},
		{args: "run --rm --network host busybox nc -w 2 127.0.0.1 18431", code: 1},
		{args: "network connect pub served"},
		{args: "run --rm --network host busybox wget -qO- http://127.0.0.1:18431/hostname", stdout: `.`},
		{args: "rm -f served"},
		{args: "network rm pub inside"},
	},
	"links of old files": {
		{args: "run -d --name legacy -e SECRET=x --expose 80 busybox sleep 1000"},
		{args: "run --rm --link legacy:db busybox sh -c 'cat /etc/hosts; env; ping -c 1 -W 2 db'", stdout: `(?s)\tdb\n.*DB_PORT_80_TCP_ADDR=`},
		{args: "run --rm --link nosuch:db busybox true", code: 125, stderr: `nosuch`},
		{args: "network create linked"},
		{args: "run -d --name modern --network linked busybox sleep 1000"},
		{args: "run --rm --network linked --link modern:db busybox ping -c 1 -W 2 db"},
		{args: "rm -f legacy modern"},
		{args: "network rm linked"},
	},
	"events": {
		{args: "network create evnet"},
		{args: "run --rm --name evc --network evnet busybox true"},
		{args: "network rm evnet"},
		{args: "events --since 1m --until=-1s --filter type=network --filter network=$0 --format '{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}'", stdout: `^create evnet bridge\nconnect evnet bridge\ndisconnect evnet bridge\ndestroy evnet bridge\n$`},
	},
	"prune": {
		{args: "network create --label keep=no pr1"},
		{args: "network create --label keep=no pr2"},
		{args: "network create pr3"},
		{args: "run -d --name prc --network pr2 busybox sleep 1000"},
		{args: "network prune -f --filter label=keep=no", stdout: `^Deleted Networks:\npr1\n\n$`},
		{args: "rm -f prc"},
		{args: "network rm pr2 pr3"},
	},
	"a network that is gone": {
		{args: "network create gone"},
		{args: "create --name orphan --network gone busybox true"},
		{args: "network rm gone"},
		{args: "start orphan", code: 1, stderr: `network gone not found`},
		{args: "rm orphan"},
		{args: "run --rm --network nosuch busybox true", code: 125, stderr: `network nosuch not found`},
	},
	"the host by name": {
		{args: "network create hostname"},
		{args: "run --rm --network hostname busybox ping -c 1 -W 2 host.docker.internal"},
		{args: "run --rm --network hostname --add-host me:host-gateway busybox ping -c 1 -W 2 me"},
		{args: "network rm hostname"},
	},
}

func TestNetworks(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	for _, client := range []string{"caisson", "docker"} {
		harness.Run(t, client, func(t *testing.T) {
			harness.Need(t, pathOf(t, client))
			version := dockerMajor()
			for name, steps := range networkScenarios {
				harness.Run(t, name, func(t *testing.T) {
					play(t, e, client, version, steps)
					if t.Failed() {
						e.Caisson("network", "prune", "-f")
					}
				})
			}
		})
	}
	if left := e.Must("network", "ls", "-q", "--filter", "type=custom"); left != "" && !t.Failed() {
		t.Errorf("networks are left: %s", left)
	}
}
