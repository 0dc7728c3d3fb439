package metastore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// set replaces the configs of r and waits until the image has them.
func set(t *testing.T, s *Store, r ConfigResource, configs map[string]string) {
	t.Helper()
	rev, err := s.SetConfigs(testCtx(t), r, func(map[string]string) (map[string]string, error) { return configs, nil })
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
}

func TestSetConfigs(t *testing.T) {
	ctx := testCtx(t)
	dir := t.TempDir()
	s := openRegistered(t, dir)
	all, group := ConfigResource{BrokerConfigs, ""}, ConfigResource{GroupConfigs, "ü/1"}
	// Read-modify-write by many at once loses nothing.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := s.SetConfigs(ctx, all, func(m map[string]string) (map[string]string, error) {
				m[fmt.Sprint(i)] = "x"
				return m, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sameAsLoaded(t, s)
	if got := s.Image().Configs[all]; len(got) != 20 {
		t.Fatalf("configs are %v", got)
	}
	set(t, s, group, map[string]string{"a": "b"})
	set(t, s, ConfigResource{BrokerConfigs, "1"}, map[string]string{"c": "d"})
	before := s.Image()
	rev, err := s.SetConfigs(ctx, group, func(m map[string]string) (map[string]string, error) { return maps.Clone(m), nil })
	if err != nil || rev > before.Revision {
		t.Fatalf("a change of nothing wrote revision %d after %d, %v", rev, before.Revision, err)
	}
	boom := errors.New("boom")
	if _, err := s.SetConfigs(ctx, group, func(map[string]string) (map[string]string, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}

	// A new process has them, too.
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	s = openRegistered(t, dir)
	if !reflect.DeepEqual(s.Image().Configs, before.Configs) || len(before.Configs) != 3 {
		t.Fatalf("after a restart %v, before it %v", s.Image().Configs, before.Configs)
	}
	set(t, s, group, nil)
	if got, ok := s.Image().Configs[group]; ok {
		t.Fatalf("after all are gone: %v", got)
	}
	if before.Configs[group]["a"] != "b" {
		t.Fatal("an image that was published has changed")
	}
	resp, err := s.srv.cli.Get(ctx, resourceKey(group))
	if err != nil || len(resp.Kvs) != 0 {
		t.Fatalf("the key is still there: %v, %v", resp, err)
	}
	sameAsLoaded(t, s)
}

func TestSetConfigsRefuses(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	ctx := testCtx(t)
	to := func(m map[string]string) func(map[string]string) (map[string]string, error) {
		return func(map[string]string) (map[string]string, error) { return m, nil }
	}
	one := map[string]string{"a": "b"}
	for what, c := range map[string]struct {
		r    ConfigResource
		set  map[string]string
		want error
	}{
		"large group":  {ConfigResource{GroupConfigs, "g"}, map[string]string{"a": strings.Repeat("x", MaxResourceConfigBytes)}, kerr.InvalidConfig},
		"large client": {ConfigResource{ClientMetrics, "c"}, map[string]string{"a": strings.Repeat("x", MaxResourceConfigBytes)}, kerr.InvalidConfig},
		"large broker": {ConfigResource{BrokerConfigs, "1"}, map[string]string{"a": strings.Repeat("x", MaxConfigBytes)}, kerr.InvalidConfig},
		"long name":    {ConfigResource{GroupConfigs, strings.Repeat("x", MaxResourceName+1)}, one, kerr.InvalidRequest},
		"unknown type": {ConfigResource{2, "topic"}, one, kerr.InvalidRequest},
	} {
		if _, err := s.SetConfigs(ctx, c.r, to(c.set)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if _, err := s.SetConfigs(ctx, ConfigResource{BrokerConfigs, "1"}, to(map[string]string{"a": strings.Repeat("x", MaxResourceConfigBytes)})); err != nil {
		t.Errorf("a broker's configs: %v", err)
	}
	// As many as there may be, made past the API.
	value := string(encodeConfigs(one))
	for i := 0; i < MaxConfigResources; i += 1000 {
		var ops []clientv3.Op
		for j := range 1000 {
			ops = append(ops, clientv3.OpPut(resourceKey(ConfigResource{ClientMetrics, fmt.Sprint(i + j)}), value))
		}
		if _, err := s.srv.cli.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.SetConfigs(ctx, ConfigResource{ClientMetrics, "new"}, to(one)); !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("one more than there may be: %v", err)
	}
	if _, err := s.SetConfigs(ctx, ConfigResource{ClientMetrics, "7"}, to(map[string]string{"a": "c"})); err != nil {
		t.Errorf("a change of one that is there: %v", err)
	}
	if _, err := s.SetConfigs(ctx, ConfigResource{GroupConfigs, "new"}, to(one)); err != nil {
		t.Errorf("one of another type: %v", err)
	}
	if _, err := s.SetConfigs(ctx, ConfigResource{ClientMetrics, "8"}, to(nil)); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := s.SetConfigs(ctx, ConfigResource{ClientMetrics, "new"}, to(one)); err != nil {
		t.Errorf("one in the place of another: %v", err)
	}
}

func TestSetConfigsNeedsController(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, err := s.SetConfigs(context.Background(), ConfigResource{BrokerConfigs, ""}, func(m map[string]string) (map[string]string, error) { return m, nil })
	if !errors.Is(err, kerr.NotController) {
		t.Fatal(err)
	}
}
