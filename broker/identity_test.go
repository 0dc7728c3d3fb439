package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A folder of another cluster, node or layout is refused with what to do; one
// of this broker is taken, and notes the ids of what it holds.
func TestIdentity(t *testing.T) {
	seeds := []string{"a:1", "b:1", "c:1"}
	for name, c := range map[string]struct {
		file  string // "" for none
		seeds []string
		want  []string // in the refusal, nil for none
	}{
		"new":                     {"", nil, nil},
		"the same":                {`{"version":1,"clusterId":"ours","nodeId":2,"diskId":"d","cacheId":"c"}`, seeds, nil},
		"after a restart":         {`{"version":1,"clusterId":"ours","nodeId":2,"diskId":"d","cacheId":"old"}`, nil, nil},
		"another cluster":         {`{"version":1,"clusterId":"theirs","nodeId":2}`, seeds, []string{"cluster theirs", "a:1,b:1,c:1", "cluster ours", "--seeds", "--store"}},
		"another cluster's, solo": {`{"version":1,"clusterId":"theirs","nodeId":2}`, nil, []string{"theirs", "ours", "restore"}},
		"another node":            {`{"version":1,"clusterId":"ours","nodeId":3}`, seeds, []string{"node 3", "node 2", "own id"}},
		"of a later version":      {`{"version":2,"clusterId":"ours","nodeId":2}`, seeds, []string{"version 2", "knows 1", "upgrade"}},
		"damaged":                 {`{"version":`, nil, []string{"damaged", "backup"}},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "firn.json")
		if c.file != "" {
			if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err := checkIdentity(dir, "ours", 2, "d", "c", c.seeds)
		if (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %q does not say %q", name, err, w)
			}
		}
		if got, _ := os.ReadFile(path); err == nil && string(got) != `{"version":1,"clusterId":"ours","nodeId":2,"diskId":"d","cacheId":"c"}`+"\n" && string(got) != c.file {
			t.Errorf("%s: the folder says %s", name, got)
		}
	}
}
