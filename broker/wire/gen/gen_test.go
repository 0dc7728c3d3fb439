package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// What is checked in is what the schema says now.
func TestGeneratedIsUpToDate(t *testing.T) {
	schema, err := os.ReadFile("../schema/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	decoders, targets, err := generate(schema)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"decode_gen.go": decoders, "fuzz_gen_test.go": targets} {
		if got, err := os.ReadFile("../" + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (error %v): run go generate ./broker/wire", name, err)
		}
	}
}

func TestSchemaErrors(t *testing.T) {
	for _, tt := range []struct{ schema, want string }{
		{"request 0 X 0-1", "want: request"},
		{"request 0 X 2-1 flexible 0", "backwards"},
		{"request z X 0-1 flexible 0", "invalid syntax"},
		{"  A int32", "indented"},
		{"request 0 X 0-1 flexible 0\n      A int32", "indented"},
		{"request 0 X 0-1 flexible 0\n  A", "has no type"},
		{"request 0 X 0-1 flexible 0\n  A []T", "has no fields"},
		{"request 0 X 0-1 flexible 0\n  A []int64", "not built"},
		{"request 0 X 0-1 flexible 0\n  A int32\n    B int32", "has no fields"},
		{"request 0 X 0-1 flexible 0\n  A int32 x+", "field A"},
	} {
		if _, _, err := generate([]byte(tt.schema)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("schema %q: error %v, want one with %q", tt.schema, err, tt.want)
		}
	}
}
