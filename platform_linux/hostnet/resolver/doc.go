// Package resolver runs the server of names (engine/network/dns) in a process of
// its own, caisson-dns, so that containers are answered while the engine is
// away: restarted, upgraded or killed.
//
// # Its life
//
// The engine starts it when the first container is on a network whose names are
// served, in a session of its own, and tells it of containers over a socket in a
// private directory, one message a packet; the sockets at which a container's
// queries arrive travel with the message. An engine that starts again finds it
// by its socket, and makes what it knows what it should know. It ends by itself
// when it serves nobody and no engine has been connected for ten seconds. If it
// is killed, the engine starts another one and tells it everything again.
//
// # What it may do
//
// It reads what containers send, so it gives up all rights before it reads
// anything: it is the user nobody in an empty directory, and has no more than
// the sockets it was given.
package resolver
