// run executes every test suite and prints one summary: what failed with its
// output, what was skipped with its reason, and the totals.
//
//	go run ./tests/run [suite…]
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// suite is one run of the go command. Suites of one stage run side by side;
// stages run one after another.
type suite struct {
	name  string
	stage int
	args  []string
	env   []string
}

var atVM = []string{"CAISSON_TEST_LEVEL=vm"}

// suites in the order of the summary. The race detector needs cgo; what runs
// with it is pure and needs no root.
var suites = []suite{
	{name: "vet", stage: 0, args: []string{"vet", "./..."}},
	{name: "windows", stage: 0, args: []string{"vet", "./..."}, env: []string{"GOOS=windows"}},
	{name: "darwin", stage: 0, args: []string{"build", "-o", os.DevNull, "./cmd/caisson"}, env: []string{"GOOS=darwin"}},
	{name: "unit", stage: 1, args: test("20m", "./cmd/...", "./engine/...", "./images/...", "./platform_linux/...", "./backends/...", "./vmshim/...", "./tests")},
	{name: "race", stage: 2, args: test("15m", "-race", "-short", "./engine/...", "./backends/kit/..."), env: []string{"CGO_ENABLED=1"}},
	{name: "cli", stage: 2, args: test("20m", "./tests/cli/...")},
	{name: "guest", stage: 3, args: test("30m", "./tests/guest/...")},
	{name: "restart", stage: 3, args: test("15m", "./tests/restart/...")},
	{name: "runtimes", stage: 3, args: test("20m", "./tests/runtimes/...")},
	{name: "interop", stage: 4, args: test("20m", "./tests/interop/...", "./tests/testimage/...")},
	{name: "security", stage: 4, args: test("15m", "./tests/security/...")},
	{name: "tenancy", stage: 4, args: test("10m", "./tests/tenancy/...")},
	{name: "network", stage: 5, args: test("10m", "./tests/network/...")},
	{name: "compose", stage: 5, args: test("15m", "./tests/compose/...")},
	{name: "vm", stage: 6, args: test("20m", "./tests/vm/...")},
	// Again, every container in a machine of its own; what is different there is said in
	// tests/harness/levels.go.
	{name: "cli-vm", stage: 7, args: test("20m", "./tests/cli/..."), env: atVM},
	{name: "restart-vm", stage: 7, args: test("15m", "./tests/restart/..."), env: atVM},
	{name: "interop-vm", stage: 8, args: test("20m", "./tests/interop/..."), env: atVM},
	{name: "security-vm", stage: 8, args: test("15m", "./tests/security/..."), env: atVM},
	{name: "compose-vm", stage: 9, args: test("15m", "-run=^(TestWorkers|TestGateway)$", "./tests/compose/..."), env: atVM},
	{name: "scale", stage: 10, args: test("15m", "./tests/scale/...")},
}

// test is `go test` of packages; -count=1 because the suites test processes and
// a kernel that the build cache knows nothing of.
func test(timeout string, rest ...string) []string {
	return append([]string{"test", "-json", "-count=1", "-p=2", "-timeout=" + timeout}, rest...)
}

func main() {
	chosen := suites
	if names := os.Args[1:]; len(names) > 0 {
		chosen = slices.DeleteFunc(slices.Clone(suites), func(s suite) bool { return !slices.Contains(names, s.name) })
		if len(chosen) == 0 {
			fmt.Fprintln(os.Stderr, "no such suite; there are:", suiteNames())
			os.Exit(2)
		}
	}
	// make has built what the suites run: none needs to do it again.
	if bin, err := filepath.Abs("bin"); err == nil && os.Getenv("CAISSON_TEST_BIN") == "" {
		os.Setenv("CAISSON_TEST_BIN", bin)
	}
	var total result
	for stage := 0; stage <= suites[len(suites)-1].stage; stage++ {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, s := range chosen {
			if s.stage != stage {
				continue
			}
			wg.Go(func() {
				r := s.run()
				mu.Lock()
				defer mu.Unlock()
				fmt.Printf("%-11s %4d passed %3d failed %3d skipped  %s\n", s.name, r.passed, len(r.failed), len(r.skipped), r.took.Round(time.Second))
				for _, f := range r.failed {
					fmt.Printf("--- FAIL %s\n%s\n", f.name, f.output)
				}
				total.add(r)
			})
		}
		wg.Wait()
	}
	total.print()
	if len(total.failed) > 0 {
		os.Exit(1)
	}
}

func suiteNames() string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return strings.Join(names, " ")
}

// outcome is a test that failed or was skipped, and what it printed.
type outcome struct{ name, output string }

type result struct {
	passed          int
	failed, skipped []outcome
	took            time.Duration
}

func (r *result) add(o result) {
	r.passed += o.passed
	r.failed = append(r.failed, o.failed...)
	r.skipped = append(r.skipped, o.skipped...)
}

func (s suite) run() (r result) {
	start := time.Now()
	defer func() { r.took = time.Since(start) }()
	cmd := exec.Command("go", s.args...)
	cmd.Env = append(os.Environ(), s.env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return result{failed: []outcome{{s.name, err.Error()}}}
	}
	if err := cmd.Start(); err != nil {
		return result{failed: []outcome{{s.name, err.Error()}}}
	}
	if s.args[0] == "test" {
		r = parse(stdout)
	} else {
		_, _ = io.Copy(&stderr, stdout)
	}
	if err := cmd.Wait(); err != nil && len(r.failed) == 0 {
		r.failed = append(r.failed, outcome{s.name, stderr.String() + err.Error()})
	} else if err == nil && s.args[0] != "test" {
		r.passed++
	}
	return r
}

// event is one line of go test -json (go doc test2json).
type event struct{ Action, Package, Test, Output, ImportPath string }

func parse(in io.Reader) (r result) {
	output := map[string]*strings.Builder{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	broken := map[string]bool{} // packages with a failed test, which fail with it
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		pkg := e.Package
		if pkg == "" {
			pkg = e.ImportPath
		}
		name := strings.TrimSuffix(pkg+" "+e.Test, " ")
		if output[name] == nil {
			output[name] = &strings.Builder{}
		}
		switch e.Action {
		case "output", "build-output":
			output[name].WriteString(e.Output)
		case "pass":
			if e.Test != "" {
				r.passed++
			}
		case "skip":
			if e.Test != "" {
				r.skipped = append(r.skipped, outcome{name, reason(output[name].String())})
			}
		case "fail", "build-fail":
			if e.Test == "" && broken[pkg] {
				continue
			}
			broken[pkg] = true
			r.failed = append(r.failed, outcome{name, output[name].String()})
		}
	}
	return r
}

// reason is what a skipped test said: its last line that is not the frame.
func reason(out string) string {
	var last string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			last = line
		}
	}
	return last
}

func (r result) print() {
	if len(r.skipped) > 0 {
		fmt.Println("\nSkipped:")
		sort.Slice(r.skipped, func(i, j int) bool { return r.skipped[i].name < r.skipped[j].name })
		for _, s := range r.skipped {
			fmt.Printf("  %s: %s\n", s.name, s.output)
		}
	}
	if len(r.failed) > 0 {
		fmt.Println("\nFailed:")
		for _, f := range r.failed {
			fmt.Printf("  %s\n", f.name)
		}
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", r.passed, len(r.failed), len(r.skipped))
}
