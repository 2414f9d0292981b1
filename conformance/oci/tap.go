// The one dependency of the suite that Debian has not got, as far as the suite uses it.

// Package tap writes the Test Anything Protocol to standard output.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T counts the assertions of one program; todo marks a failure that is expected.
type T struct {
	count *int
	todo  bool
}

func New() *T { return &T{count: new(int)} }

func (t *T) Header(plan int) {
	fmt.Println("TAP version 13")
	if plan > 0 {
		fmt.Printf("1..%d\n", plan)
	}
}

func (t *T) AutoPlan() { fmt.Printf("1..%d\n", *t.count) }

func (t *T) Ok(ok bool, what string) {
	*t.count++
	result, sep := "not ok", "-"
	if ok {
		result = "ok"
	}
	if t.todo {
		sep = "# TODO"
	}
	fmt.Println(result, *t.count, sep, strings.ReplaceAll(what, "\n", " "))
}

func (t *T) Pass(what string) { t.Ok(true, what) }
func (t *T) Fail(what string) { t.Ok(false, what) }
func (t *T) Todo() *T         { return &T{t.count, true} }

func (t *T) Skip(n int, why string) {
	for ; n > 0; n-- {
		*t.count++
		fmt.Println("ok", *t.count, "# SKIP", why)
	}
}

func (t *T) Diagnostic(text string) {
	fmt.Println("# " + strings.ReplaceAll(text, "\n", "\n# "))
}

func (t *T) Diagnosticf(format string, args ...interface{}) { t.Diagnostic(fmt.Sprintf(format, args...)) }

// YAML prints JSON, which is YAML too.
func (t *T) YAML(value interface{}) error {
	text, err := json.MarshalIndent(value, "  ", "  ")
	if err == nil {
		fmt.Printf("  ---\n  %s\n  ...\n", text)
	}
	return err
}
