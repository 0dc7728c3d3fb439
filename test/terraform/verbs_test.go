package terraform

import (
	"fmt"
	"go/ast"
	"go/types"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// s3Actions says what IAM asks for each call of S3's API, by Amazon's "Actions,
// resources, and condition keys for Amazon S3". A call that is missing here
// fails the test: look it up, and give the machines' role its verb.
var s3Actions = map[string][]string{
	"AbortMultipartUpload":    {"s3:AbortMultipartUpload"},
	"CompleteMultipartUpload": {"s3:PutObject"},
	"CreateMultipartUpload":   {"s3:PutObject"},
	"DeleteObject":            {"s3:DeleteObject"},
	"GetObject":               {"s3:GetObject"},
	"HeadBucket":              {"s3:ListBucket"},
	"HeadObject":              {"s3:GetObject"},
	"ListObjectsV2":           {"s3:ListBucket"},
	"PutObject":               {"s3:PutObject"},
	"UploadPart":              {"s3:PutObject"},
}

// gcsPermissions says the same of the calls of Google's client, by "IAM
// permissions for JSON methods". Methods that only prepare a call need none.
var gcsPermissions = map[string][]string{
	"Client.Bucket":               nil,
	"Client.Close":                nil,
	"Client.SetRetry":             nil,
	"BucketHandle.Object":         nil,
	"BucketHandle.Objects":        {"storage.objects.list"},
	"ObjectHandle.If":             nil,
	"ObjectHandle.Attrs":          {"storage.objects.get"},
	"ObjectHandle.Delete":         {"storage.objects.delete"},
	"ObjectHandle.NewRangeReader": {"storage.objects.get"},
	"ObjectHandle.NewWriter":      {"storage.objects.create", "storage.objects.delete"}, // delete: what is there is replaced
}

// calls gives the names Type.Method of what a package of the project calls on
// the given types of the SDK's package, and everything else of that package
// that could make a call is an error.
func calls(t *testing.T, pkg, sdk string, receivers ...string) []string {
	t.Helper()
	cfg := &packages.Config{Dir: root, Mode: packages.NeedName | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps | packages.NeedExportFile}
	loaded, err := packages.Load(cfg, pkg)
	if err != nil || len(loaded) != 1 || len(loaded[0].Errors) > 0 {
		t.Fatalf("%s cannot be loaded: %v %v", pkg, err, loaded)
	}
	var out []string
	for _, file := range loaded[0].Syntax {
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			f, ok := loaded[0].TypesInfo.Uses[sel.Sel].(*types.Func)
			if !ok || f.Pkg() == nil || !strings.HasPrefix(f.Pkg().Path(), sdk) {
				return true
			}
			recv := f.Signature().Recv()
			if recv == nil {
				return true
			}
			typ := recv.Type()
			if p, ok := typ.(*types.Pointer); ok {
				typ = p.Elem()
			}
			if named, ok := typ.(*types.Named); ok && slices.Contains(receivers, named.Obj().Name()) {
				out = append(out, named.Obj().Name()+"."+f.Name())
			}
			return true
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// needs gives what the calls need, sorted.
func needs(calls []string, of func(call string) ([]string, bool)) ([]string, error) {
	var all []string
	for _, c := range calls {
		v, ok := of(c)
		if !ok {
			return nil, fmt.Errorf("%s is called, and nobody has said which permission it needs", c)
		}
		all = append(all, v...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// s3Verbs gives the verbs that Firn's S3 client needs.
func s3Verbs(t *testing.T) []string {
	t.Helper()
	found := calls(t, "./objectstore/s3", "github.com/aws/aws-sdk-go-v2/service/s3", "Client")
	if len(found) < 8 {
		t.Fatalf("only %v found in objectstore/s3: does the test still know how it calls?", found)
	}
	verbs, err := needs(found, func(c string) ([]string, bool) {
		v, ok := s3Actions[strings.TrimPrefix(c, "Client.")]
		return v, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return verbs
}

// gcsVerbs gives the permissions that Firn's client of Cloud Storage needs.
func gcsVerbs(t *testing.T) []string {
	t.Helper()
	found := calls(t, "./objectstore/gcs", "cloud.google.com/go/storage", "Client", "BucketHandle", "ObjectHandle")
	if len(found) < 7 {
		t.Fatalf("only %v found in objectstore/gcs: does the test still know how it calls?", found)
	}
	verbs, err := needs(found, func(c string) ([]string, bool) {
		v, ok := gcsPermissions[c]
		return v, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return verbs
}

func TestVerbsOfCalls(t *testing.T) {
	if got, want := strings.Join(s3Verbs(t), " "), "s3:AbortMultipartUpload s3:DeleteObject s3:GetObject s3:ListBucket s3:PutObject"; got != want {
		t.Errorf("S3: %s, but docs/object-stores.md and the role have %s", got, want)
	}
	if got, want := strings.Join(gcsVerbs(t), " "), "storage.objects.create storage.objects.delete storage.objects.get storage.objects.list"; got != want {
		t.Errorf("Cloud Storage: %s, but docs/object-stores.md and the role have %s", got, want)
	}
	if _, err := needs([]string{"Client.PutObjectAcl"}, func(string) ([]string, bool) { return nil, false }); err == nil {
		t.Error("a call that nobody has looked up was let pass")
	}
}
