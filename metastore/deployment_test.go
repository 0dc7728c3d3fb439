package metastore

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/firnlog/firn/record"
)

// What a broker runs as comes and goes with its registration, and with the
// setting; a broker that was not told has none.
func TestDeployment(t *testing.T) {
	ctx, dir := testCtx(t), t.TempDir()
	for _, name := range []string{"0a0a0a0a0a0a.m1", "", "0b0b0b0b0b0b.m1"} {
		cfg := testConfig(dir)
		cfg.Deployment = name
		s, err := Open(ctx, cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Image().Deployments; len(got) != 0 {
			t.Errorf("before it is registered the broker runs as %v", got)
		}
		if err := s.Register(ctx); err != nil {
			t.Fatal(err)
		}
		img := until(t, s, "the broker is registered", func(img *Image) bool { return len(img.Brokers) == 1 })
		want := map[record.BrokerID]string{}
		if name != "" {
			want[1] = name
		}
		if !reflect.DeepEqual(img.Deployments, want) {
			t.Errorf("told %q: the image has %v", name, img.Deployments)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(dir)
	cfg.Deployment = strings.Repeat("x", MaxDeployment+1)
	if s, err := Open(ctx, cfg, quiet); err == nil {
		_ = s.Close(ctx)
		t.Error("a deployment that is too long is taken")
	}
}

// The registration's own value is what it was before there were deployments:
// a broker of then reads it.
func TestDeploymentIsBesideTheRegistration(t *testing.T) {
	s := &Store{cfg: Config{BrokerID: 7, Deployment: "a.b"}}
	op := s.tellDeployment(1)
	if got := string(op.KeyBytes()); got != deploymentKey(7) || got == brokerKey(7) {
		t.Errorf("told in %q", got)
	}
	if k, err := parseImageKey("/firn/v1/image/later/0000000007"); err != nil || k.kind != kindUnknown {
		t.Errorf("a kind of key that is not known is read as %+v, %v", k, err)
	}
}
