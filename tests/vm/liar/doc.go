// Command liar is the agent of a virtual machine that was taken over. What it does
// depends on the host name that the machine is given, so that one template serves
// all of its ways to misbehave; see lies in main_linux.go.
package main
