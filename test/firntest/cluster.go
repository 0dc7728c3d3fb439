package firntest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// StartCluster runs n brokers, whose ids are 1 to n, as one cluster over one
// object store, a folder. args gives further arguments of each; nil: none.
func StartCluster(t testing.TB, n int, args func(id int) []string) []*Broker {
	t.Helper()
	objects := filepath.Join(t.TempDir(), "objects")
	brokers := make([]*Broker, n)
	seeds := make([]string, n)
	for i := range brokers {
		seeds[i] = FreePort(t)
	}
	for i := range brokers {
		b := New(t, "--node-id", fmt.Sprint(i+1), "--seeds", strings.Join(seeds, ","), "--peer", seeds[i], "--peer-client", FreePort(t), "--store", "file://"+objects)
		if args != nil {
			b.Args = append(b.Args, args(i+1)...)
		}
		b.Launch()
		brokers[i] = b
	}
	for _, b := range brokers {
		b.AwaitReady()
	}
	return brokers
}
