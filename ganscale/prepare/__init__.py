"""Pictures checked, converted and described once, before any run reads them."""
