// Package hostnet makes networks on a Linux host: it is the kernel's side of
// engine/network, by netlink and nftables, without running any program.
//
// # What it puts on the host, and what takes it away
//
//   - A bridge per network, with the host's address on it. Cleanup removes it.
//   - Per container, a network namespace that is held by open files only, and a
//     veth pair between it and the bridge. When the last holder of the
//     namespace closes it, or dies, the kernel frees all of it.
//   - One nftables table of the inet family, caisson_<host id>. Published ports
//     are elements of maps in it, so the thousandth costs what the first does,
//     and every change is one transaction. Cleanup removes it.
//   - Where another program, such as dockerd, made the policy of iptables' own
//     FORWARD chain "drop", two accepting rules per bridge at the end of that
//     chain: a verdict of one chain cannot overrule another's, so without them
//     no packet of ours would pass. They come last, so that every rule that the
//     host's owner wrote still decides first; and what they accept still has to
//     pass our own chain. They carry the table's name as comment. Cleanup
//     removes them. A chain of any other table that drops by policy was
//     written by the host's owner: it is told as a warning, and left alone.
//   - Kernel settings: forwarding of IPv4 and IPv6, turned on once if off, and
//     never off again, for others may have come to rely on it; and settings of
//     the bridges alone.
//
// Nothing that belongs to others is removed or rewritten.
package hostnet
