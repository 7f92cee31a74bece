// Command probe prints what a container lets its program do, one "key value" a
// line, so that two engines can be compared. It tries only what does no harm
// where it succeeds.
package main
