// Package keeper is the client of caisson-keeper, and tells what the keeper is.
//
// # What the keeper is
//
// caisson-keeper is a small process of which there is one for each backend's
// state directory. It does three things and nothing else:
//
//   - It is the parent of containers: on request it forks a process into the
//     namespaces and cgroups of the request and executes caisson-init in it,
//     reads its exit status when it ends, and writes that down before it tells
//     anyone.
//   - It holds descriptors (pidfds, terminals, pipes) that must outlive the
//     backend, by key and name, and gives them back to the next backend.
//   - It starts an engine again that ended without having said goodbye.
//
// It parses nothing that comes from images or clients: its only peers are our
// own processes, of the same user, over a socket in a private directory, in
// bounded packets (package wire).
//
// # Its life
//
// The backend starts it in a session of its own. It ends by itself when it holds
// nothing, watches no engine, and no backend has been connected for ten seconds,
// or when its directory is gone and it holds nothing. If it is killed, the
// containers live on (nothing is tied to the death of their parent), the backend
// starts another keeper and hands it what it held itself.
//
// # Its files
//
// In its directory: keeper.sock, the socket; keeper.lock, locked for as long as
// it lives, so that there is never a second one; keeper.journal, an append-only
// list of processes born, ended and forgotten, from which a new keeper finds the
// processes again even when the backend died too.
package keeper
