package file_test

import (
	"testing"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/file"
	"github.com/firnlog/firn/objectstore/storetest"
)

func open(t testing.TB, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(t.Context(), file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) objectstore.Store { return open(t, t.TempDir()) })
}
