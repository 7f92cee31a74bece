package vmm

import (
	"testing"
	"time"
)

func TestBoot(t *testing.T) {
	q, shape := setUp(t)
	at := time.Now()
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	a := newAgent(m)
	a.must(t, "pong 1", "ping 1")
	t.Logf("%s: cold boot to the first answer: %v", q.Name(), time.Since(at))
}
