package kafkadiff_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/firntest"
	"github.com/firnlog/firn/test/kafkadiff"
)

// TestCoverage prints which versions of which APIs scenarios ask, and which
// error codes came in the answers, and fails for an advertised API whose lowest
// or highest version nobody asks. Versions that are advertised and not served
// (Produce 0 to 2) count by the refusal.
func TestCoverage(t *testing.T) {
	used := map[int16]map[int16]bool{}
	codes := map[int16]map[string]bool{}
	steps := 0
	for _, s := range load(t) {
		keys := map[int]int16{}
		for _, u := range s.Uses() {
			steps++
			keys[u.Step] = u.Key
			if used[u.Key] == nil {
				used[u.Key], codes[u.Key] = map[int16]bool{}, map[string]bool{}
			}
			used[u.Key][u.Version] = true
		}
		text, err := os.ReadFile(recordingFile(s))
		if err != nil {
			continue // TestScenarios says so
		}
		recorded, err := kafkadiff.ParseRecording(string(text))
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		for _, a := range recorded {
			if key, ok := keys[a.Step]; ok {
				for _, code := range a.ErrorCodes() {
					codes[key][code] = true
				}
			}
		}
	}
	b := firntest.Start(t)
	advertised, err := kafkadiff.Advertised(b.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	pairs := 0
	for _, k := range slices.Sorted(maps.Keys(used)) {
		t.Logf("%2d %-26s versions %s", k, kmsg.NameForKey(k), ranges(slices.Sorted(maps.Keys(used[k]))))
		t.Logf("   errors: %s", strings.Join(slices.Sorted(maps.Keys(codes[k])), " "))
		pairs += len(codes[k])
	}
	t.Logf("%d steps, %d APIs, %d pairs of API and error code", steps, len(used), pairs)
	for _, a := range advertised {
		if !used[a.ApiKey][a.MinVersion] || !used[a.ApiKey][a.MaxVersion] {
			t.Errorf("%s: versions %d and %d are advertised; scenarios ask %s", kmsg.NameForKey(a.ApiKey), a.MinVersion, a.MaxVersion, ranges(slices.Sorted(maps.Keys(used[a.ApiKey]))))
		}
	}
}

// ranges writes sorted numbers as 0-3 5.
func ranges(ns []int16) string {
	if len(ns) == 0 {
		return "none"
	}
	var parts []string
	for i := 0; i < len(ns); {
		j := i
		for j+1 < len(ns) && ns[j+1] == ns[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(ns[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", ns[i], ns[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, " ")
}
