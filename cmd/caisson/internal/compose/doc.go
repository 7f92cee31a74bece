// Package compose keeps an engine as a project of Compose files says.
//
// # Life of a command
//
// Files.Load has caisson-compose read the files into a Project: services in the
// engine's own terms, each with the hash of its configuration. A Runner lists
// what of the project is on the engine, by labels, and moves it towards the
// Project: Create makes networks, volumes and containers, and makes anew those
// whose hash, image, networks or volumes differ; Start starts them, each when
// what it depends on is as far as its condition says; Down takes all away in
// reverse.
//
// Nothing is kept here between two commands: labels, names and hashes are those
// of Docker's tool, so either can go on where the other left off.
//
// # Secrets
//
// A secret or configuration that is a file on the host is mounted read-only, as
// it is. One whose content comes from the environment or from the Compose file
// is written to a directory of this user's on a tmpfs, and mounted from there:
// it is on no disk, and neither inspect nor a log shows it. After a reboot of
// the host it is gone until the next `up`.
package compose
