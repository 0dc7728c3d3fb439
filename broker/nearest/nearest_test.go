package nearest

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var words = []string{"advertise", "data", "kafka", "log-level", "log.retention.ms", "max.message.bytes", "min.insync.replicas", "remote.storage.enable"}

// TestWord: one slip in any name is still understood.
func TestWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(words).Draw(t, "name")
		at := rapid.IntRange(0, len(name)-1).Draw(t, "at")
		c := string(rapid.RuneFrom([]rune("abcxyz-_")).Draw(t, "c"))
		slip := rapid.SampledFrom([]string{
			name, name[:at] + name[at+1:], name[:at] + c + name[at:], name[:at] + c + name[at+1:],
			strings.ToUpper(name), strings.ReplaceAll(name, ".", "_"),
		}).Draw(t, "slip")
		if got := Word(slip, words); got != name {
			t.Fatalf("%q is taken for %q, not %q", slip, got, name)
		}
	})
	for _, far := range []string{"", "completely.else", strings.Repeat("log.retention.ms", 10)} {
		if got := Word(far, words); got != "" {
			t.Errorf("%q, like none, is taken for %q", far, got)
		}
	}
	if got := Word("adta", words); got != "data" {
		t.Errorf("neighbours swapped: got %q", got)
	}
}
