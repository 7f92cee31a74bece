// Package linux is the backend of the Linux process level: it joins the runtime,
// control groups, files and the kit to the contract of engine/backend.
//
// # What is where
//
// Everything lives in the state directory, which survives the backend but not
// the host:
//
//	boot                         which boot of the host the rest is from
//	events                       the journal of events
//	runtime/                     the keeper's socket and journal
//	sandboxes/<id>               backendpb.Sandbox
//	containers/<id>/record       backendpb.Container
//	containers/<id>/stdout.spool output on its way, and a cursor (see kit.Output)
//	containers/<id>/execs/<id>/  the same of each exec, with a backendpb.ExecSpec
//
// A record is written before anything else of its object is made, and removed
// after everything else of it is gone. So whatever a killed backend leaves has a
// record, from which the next one carries on (see recover): what the keeper
// still holds lives on, what was never completed is undone, and of what ended
// meanwhile the exit is told.
//
// What a container is doing now is not in its record: the journal knows whether
// it was started and how it ended, the keeper which process it is.
package linux
