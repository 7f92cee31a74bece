// Package kit holds what all backends share: the journal of events, the output
// of processes on its way from pipes to logs and attached clients, and small
// durable records.
package kit
