package broker

import (
	"context"
	"testing"

	"github.com/firnlog/firn/objectstore/file"
)

// Of values of one name the first one stays, and everybody gets it.
func TestClaim(t *testing.T) {
	ctx := context.Background()
	store, err := file.Open(ctx, file.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := claim{store}
	if got, err := c.Get(ctx, "cluster/claim.json"); got != nil || err != nil {
		t.Fatalf("before the first: %q, %v", got, err)
	}
	for i, want := range []string{"", "one", "one"} {
		got, err := c.PutIfAbsent(ctx, "cluster/claim.json", []byte([]string{"one", "two", "one"}[i]))
		if err != nil || string(got) != want {
			t.Fatalf("put %d found %q, %v", i, got, err)
		}
	}
	if got, err := c.Get(ctx, "cluster/claim.json"); string(got) != "one" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := c.PutIfAbsent(ctx, "cluster/formed.json", []byte("x")); err != nil {
		t.Fatal(err)
	}
}
