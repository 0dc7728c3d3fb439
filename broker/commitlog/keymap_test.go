package commitlog

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func TestKeyMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newKeyMap(1<<20, rapid.Int64Range(0, 100).Draw(t, "slots")*keySlotBytes)
		oracle := map[string]record.Offset{}
		for o := range record.Offset(rapid.IntRange(0, 200).Draw(t, "n")) {
			key := fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "key"))
			_, known := oracle[key]
			if ok := m.put([]byte(key), o); ok != (known || len(oracle) < m.most) {
				t.Fatalf("put of key %q with %d of %d used: %v", key, len(oracle), m.most, ok)
			} else if ok {
				oracle[key] = o
			}
		}
		for i := range 61 {
			want, ok := oracle[fmt.Sprint(i)]
			if !ok {
				want = -1
			}
			if got := m.latest([]byte(fmt.Sprint(i))); got != want {
				t.Fatalf("key %d: got %d, want %d", i, got, want)
			}
		}
	})
}
