// Package caps names Linux capabilities and changes those of the calling
// thread.
package caps
